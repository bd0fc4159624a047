// SPDX-License-Identifier: Apache-2.0
#include "node/retrieval_jobs.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "compose/learn/hash.h"
#include "compose/math/processor.h"
#include "compose/measure/query_scores.h"
#include "compose/package/manifest_training.h"
#include "compose/package/safetensors.h"
#include "compose/retrieve/adapter_data.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/random.h"

namespace motet::node {
namespace {

// Where a plan leaves it to the node.
constexpr int64_t kCheckpointEvery = 50;
// Of each query's best documents that are not relevant: what its hard
// negatives are drawn from.
constexpr int64_t kHardPool = 30;

double Now() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

bool HasRelevant(const retrieve::BeirSet& set, const retrieve::Query& query) {
  const auto judged = set.judgements.find(query.id);
  return judged != set.judgements.end() &&
         std::any_of(judged->second.begin(), judged->second.end(),
                     [](const auto& j) { return j.second > 0; });
}

// The queries that are ranked: those with a relevant document, and of these
// as many as the plan wants, drawn by its seed, in their own order.
void Draw(const v1::TrainingPlan& plan, retrieve::BeirSet& set) {
  std::erase_if(set.queries, [&](const retrieve::Query& query) {
    return !HasRelevant(set, query);
  });
  const auto count = static_cast<int64_t>(set.queries.size());
  const auto most = static_cast<int64_t>(plan.max_queries());
  if (most == 0 || count <= most) return;
  std::set<int64_t> kept;
  for (int64_t i = 0; i < most; ++i) {
    kept.insert(learn::Shuffled(i, count, plan.seed()));
  }
  std::vector<retrieve::Query> drawn;
  for (const int64_t i : kept) {
    drawn.push_back(std::move(set.queries[static_cast<size_t>(i)]));
  }
  set.queries = std::move(drawn);
}

// Scores of adapters that are done, by the digest of their weights. A file
// that is of other queries, or that cannot be read, holds nothing.
class ScoreFile {
 public:
  ScoreFile(std::string path, std::string key, size_t queries)
      : path_(std::move(path)), key_(std::move(key)) {
    const auto file = package::SafetensorsFile::Open(path_);
    if (!file.ok()) return;
    for (const auto& e : (*file)->entries()) {
      const math::Tensor& t = e.tensor;
      if (!e.name.starts_with(key_) || t.dtype != math::DType::kF64 ||
          t.shape != math::Shape{static_cast<int64_t>(queries)}) {
        continue;
      }
      const auto* from = static_cast<const double*>(t.data);
      scores_[e.name].assign(from, from + queries);
    }
  }
  const std::vector<double>* Find(const std::string& weights_sha256) const {
    const auto found = scores_.find(key_ + weights_sha256);
    return found == scores_.end() ? nullptr : &found->second;
  }
  absl::Status Add(const std::string& weights_sha256,
                   std::vector<double> scores) {
    scores_[key_ + weights_sha256] = std::move(scores);
    std::vector<package::NamedTensor> tensors;
    for (auto& [name, values] : scores_) {
      math::Tensor t;
      t.data = values.data();
      t.dtype = math::DType::kF64;
      t.shape = {static_cast<int64_t>(values.size())};
      tensors.push_back({name, t});
    }
    return package::WriteSafetensors(path_, std::move(tensors));
  }

 private:
  const std::string path_, key_;
  std::map<std::string, std::vector<double>> scores_;
};

// Of everything besides the adapter that scores depend on.
std::string KeyOf(const EncoderBase& base, const retrieve::BeirSet& set) {
  proto::Sha256Stream stream;
  stream.Update(absl::StrCat(proto::Hex(base.encoder->digest()), " ",
                             static_cast<int>(base.encoder->product()), "\n"));
  const auto add = [&](const std::string& text) {
    stream.Update(absl::StrCat(text.size(), "\n", text));
  };
  for (const retrieve::Document& d : set.documents) {
    add(d.id);
    add(retrieve::TextOf(d));
  }
  for (const retrieve::Query& q : set.queries) {
    add(q.id);
    add(q.text);
    for (const auto& [document, score] : set.judgements.at(q.id)) {
      add(absl::StrCat(document, " ", score));
    }
  }
  return proto::Hex(stream.Finish()) + ".";
}

absl::StatusOr<retrieve::Vectors> DocumentVectors(
    const EncoderBase& base, const retrieve::BeirSet& set,
    const RetrievalFiles& files, const retrieve::Fraction& encoding) {
  std::vector<std::string> texts;
  for (const retrieve::Document& d : set.documents) {
    texts.push_back(retrieve::TextOf(d));
  }
  bool cached = false;
  return retrieve::CachedVectors(*base.encoder, texts, files.vectors, encoding,
                                 &cached);
}

// Noise on the means and, of the means with it, gates with noise of their own.
// Not MakePilots' noise: whoever knows a seed can take that off again.
absl::Status AddNoiseAndGates(double noise, std::span<const double> scores,
                              std::span<const float> vectors, int64_t experts,
                              int64_t width, int own, OwnersPilots& out) {
  std::vector<retrieve::PilotGroup>& groups = out.made.groups;
  std::vector<double> normals(
      groups.size() * static_cast<size_t>(width + 1));
  if (noise > 0) {
    MOTET_ASSIGN_OR_RETURN(normals, proto::SecureNormals(std::ssize(normals)));
  }
  const double* next = normals.data();
  for (retrieve::PilotGroup& group : groups) {
    for (float& x : group.mean) x = static_cast<float>(x + noise * *next++);
  }
  if (out.gate_share == 0) return absl::OkStatus();
  retrieve::SetGates(scores, vectors, experts, width, own, out.gate_share,
                     out.made);
  for (retrieve::PilotGroup& group : groups) {
    group.gate = std::clamp(group.gate + noise * *next++, -1.0, 1.0);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<EncoderBase> LoadEncoderBase(package::OpenedPackage opened,
                                            const v1::TrainingPlan& plan) {
  math::Product product = math::Product::kExact;
  if (plan.arithmetic() == "bf16" ||
      (plan.arithmetic() == "auto" && math::FastBf16())) {
    product = math::Product::kBf16;
  }
  if (product == math::Product::kBf16 && !math::HasBf16()) {
    return proto::Error(
        absl::StatusCode::kFailedPrecondition, "arithmetic",
        absl::StrCat("bf16 on a processor with ", math::InstructionSet()),
        "bf16 instructions", "ask for a plan with \"auto\" or \"f32\"");
  }
  EncoderBase base;
  base.package = std::move(opened);
  MOTET_ASSIGN_OR_RETURN(
      base.encoder, retrieve::TextEncoder::Load(base.package.folder, product));
  return base;
}

absl::StatusOr<TrainedAdapter> TrainAdapter(
    const v1::TrainingPlan& plan, const Policy& policy, const EncoderBase& base,
    const retrieve::BeirSet& set, const RetrievalFiles& files,
    const retrieve::Fraction& encoding, const std::function<void()>& training,
    const learn::OnProgress& progress) {
  const auto hard = static_cast<int64_t>(plan.hard_negatives());
  retrieve::AdapterDataOptions from;
  from.max_queries = static_cast<int64_t>(plan.max_queries());
  from.hard_pool = hard == 0 ? 0 : std::max(hard, kHardPool);
  from.seed = plan.seed();
  from.cache = files.vectors;
  from.progress = encoding;
  MOTET_ASSIGN_OR_RETURN(const retrieve::MadeAdapterData made,
                         retrieve::MakeAdapterData(*base.encoder, {set}, from));
  // The floor is of what is trained on: fewer may be drawn, or answered.
  const auto queries = static_cast<int64_t>(made.data.queries.size());
  if (queries < policy.min_queries) {
    return proto::Error(absl::StatusCode::kFailedPrecondition,
                        "embedding_adapter",
                        absl::StrCat(queries, " queries to train on"),
                        absl::StrCat("the owner's floor, ", policy.min_queries),
                        "ask for more queries (max_queries)");
  }
  training();
  learn::AdapterOptions o;
  o.steps = static_cast<int64_t>(plan.steps());
  o.batch_queries = plan.batch_sequences();
  o.query_tokens = plan.sequence_tokens();
  o.rank = plan.adapter_rank();
  o.alpha = plan.adapter_alpha();
  o.dropout = plan.adapter_dropout();
  o.temperature = plan.temperature();
  o.learning_rate = plan.learning_rate();
  // Its share is rounded down to steps; half a step keeps it from one less.
  o.warmup_fraction =
      std::min(1.0, (static_cast<double>(plan.warmup_steps()) + 0.5) /
                        static_cast<double>(plan.steps()));
  o.clip_norm = plan.clip_norm();
  o.weight_decay = plan.weight_decay();
  o.hard_negatives = hard;
  o.seed = plan.seed();
  o.product = base.encoder->product();
  o.checkpoint_every = plan.checkpoint_every() == 0
                           ? kCheckpointEvery
                           : static_cast<int64_t>(plan.checkpoint_every());
  o.checkpoint_path = files.checkpoint;
  TrainedAdapter trained;
  MOTET_ASSIGN_OR_RETURN(
      trained.lora, learn::TrainAdapter(base.encoder->encoder(), made.data, o,
                                        progress, &trained.result));
  trained.documents = static_cast<int64_t>(set.documents.size());
  trained.queries = static_cast<int64_t>(made.data.queries.size());
  return trained;
}

absl::StatusOr<OwnersPilots> MakeOwnersPilots(
    const v1::TrainingPlan& plan, const Policy& policy, const EncoderBase& base,
    const retrieve::BeirSet& whole,
    std::span<const std::unique_ptr<package::LoadedLora>> adapters, int own,
    const RetrievalFiles& files, const retrieve::Fraction& encoding,
    const std::function<bool(const ScoringProgress&)>& progress) {
  retrieve::BeirSet set = whole;
  Draw(plan, set);
  const size_t queries = set.queries.size(), experts = adapters.size();
  MOTET_ASSIGN_OR_RETURN(const retrieve::Vectors documents,
                         DocumentVectors(base, set, files, encoding));
  ScoreFile known(files.checkpoint, KeyOf(base, set), queries);
  std::vector<double> scores(queries * experts);
  const double start = Now();
  ScoringProgress p;
  p.all = static_cast<int64_t>(queries * experts);
  int64_t fresh = 0;
  for (size_t e = 0; e < experts; ++e) {
    const std::string& digest =
        plan.scored(static_cast<int>(e)).weights_sha256();
    if (known.Find(digest) == nullptr) {
      MOTET_ASSIGN_OR_RETURN(
          std::vector<double> made,
          measure::QueryScores(*base.encoder, &adapters[e]->lora, set,
                               documents.values));
      MOTET_RETURN_IF_ERROR(known.Add(digest, std::move(made)));
      fresh += static_cast<int64_t>(queries);
    }
    const std::vector<double>& of = *known.Find(digest);
    for (size_t q = 0; q < queries; ++q) scores[q * experts + e] = of[q];
    p.done += static_cast<int64_t>(queries);
    p.seconds = Now() - start;
    p.eta_seconds = fresh == 0 ? 0
                               : p.seconds / static_cast<double>(fresh) *
                                     static_cast<double>(p.all - p.done);
    if (!progress(p)) return absl::CancelledError("stopped");
  }
  std::vector<std::string> texts;
  for (const retrieve::Query& q : set.queries) texts.push_back(q.text);
  MOTET_ASSIGN_OR_RETURN(const retrieve::Vectors vectors,
                         base.encoder->Encode(texts));
  retrieve::PilotOptions options;
  options.min_queries = policy.min_queries;
  options.own = own;
  OwnersPilots out;
  out.made = retrieve::MakePilots(scores, vectors.values,
                                  static_cast<int64_t>(experts),
                                  base.encoder->width(), options);
  // A plan that was consented to before pilots had gates leaves them out.
  if (absl::c_linear_search(plan.publishes(), package::kLeavesPilots)) {
    out.gate_share = retrieve::kGateShare;
  }
  MOTET_RETURN_IF_ERROR(AddNoiseAndGates(
      policy.pilot_noise, scores, vectors.values,
      static_cast<int64_t>(experts), base.encoder->width(), own, out));
  out.documents = static_cast<int64_t>(set.documents.size());
  out.queries = static_cast<int64_t>(queries);
  out.seconds = Now() - start;
  if (!out.made.groups.empty()) return out;
  return proto::Error(
      absl::StatusCode::kFailedPrecondition, "pilots",
      absl::StrCat(out.made.withheld, " groups of ", queries,
                   " queries, none of ", policy.min_queries, " or more"),
      "a group that the policy's floor lets leave",
      "import more judged queries, or lower [pilots] min_queries");
}

}  // namespace motet::node
