// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/adapter_run.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/learn/contrastive_loop.h"
#include "compose/learn/hash.h"
#include "compose/learn/loop.h"
#include "proto/error.h"

namespace motet::learn {
namespace {

using math::Tensor;

// What draws are for: streams of one seed that have nothing to do with each
// other.
enum Stream : uint64_t { kOrder, kSet, kPositive, kHard, kNoise, kStart };

uint64_t Draw(uint64_t seed, Stream stream, uint64_t index) {
  return Mix(Mix(seed ^ Mix(stream)) ^ index);
}

// Queries [first, first + count) that a batch is taken of.
struct Part {
  int64_t first = 0, count = 0;
};
std::vector<Part> Parts(const AdapterData& data, bool one_set) {
  const int64_t all = std::ssize(data.queries);
  if (!one_set || data.sets.empty()) return {{0, all}};
  std::vector<Part> parts;
  int64_t first = 0;
  for (int64_t count : data.sets) {
    if (count > 0) parts.push_back({first, count});
    first += count;
  }
  return parts;
}

// Which part a step's batch is of, and how many steps before it were of the
// same: as many as its share wants, spread evenly, none by chance.
struct Turn {
  Part part;
  int64_t before = 0;
};
// Each turn depends on those before it, so steps are best asked in order.
class Turns {
 public:
  explicit Turns(std::vector<Part> parts) : parts_(std::move(parts)) {
    for (const Part& part : parts_) all_ += part.count;
  }

  Turn At(int64_t step) {
    if (parts_.size() == 1) return {parts_[0], step};
    if (taken_.empty() || step < now_) {
      taken_.assign(parts_.size(), 0);
      now_ = 0;
    }
    for (; now_ < step; ++now_) ++taken_[Next()];
    const size_t next = Next();
    return {parts_[next], taken_[next]};
  }

 private:
  // The part that is furthest behind its share after step now_.
  size_t Next() const {
    size_t next = 0;
    double furthest = -1e300;
    for (size_t i = 0; i < parts_.size(); ++i) {
      const double due = static_cast<double>(parts_[i].count) *
                             static_cast<double>(now_ + 1) /
                             static_cast<double>(all_) -
                         static_cast<double>(taken_[i]);
      if (due > furthest) {
        furthest = due;
        next = i;
      }
    }
    return next;
  }

  const std::vector<Part> parts_;
  int64_t all_ = 0, now_ = 0;
  std::vector<int64_t> taken_;  // steps of each part before now_
};

AdapterBatch BatchOf(const AdapterData& data, const AdapterOptions& options,
                     const Turn& turn, int64_t step) {
  const int64_t count = turn.part.count;
  const int64_t size = std::min(options.batch_queries, count);
  AdapterBatch batch;
  std::vector<size_t> queries;
  absl::flat_hash_map<int64_t, int32_t> columns;
  const auto column = [&](int64_t row) {
    const auto [at, added] =
        columns.try_emplace(row, static_cast<int32_t>(batch.columns.size()));
    if (added) batch.columns.push_back(row);
    return at->second;
  };
  for (int64_t i = 0; i < size; ++i) {
    const int64_t place = turn.before * size + i;
    // Each time round, another order.
    const auto round = static_cast<uint64_t>(place / count);
    const int64_t index =
        Shuffled(place % count, count, Draw(options.seed, kOrder, round));
    const auto q = static_cast<size_t>(turn.part.first + index);
    const uint64_t drawn = Draw(options.seed, kPositive, Mix(round) ^ q);
    queries.push_back(q);
    std::span<const int32_t> ids = data.queries[q];
    batch.queries.push_back(ids);
    const auto& relevant = data.relevant[q];
    batch.targets.push_back(column(relevant[drawn % relevant.size()]));
  }
  for (size_t q : queries) {
    if (options.hard_negatives == 0 || data.hard.empty()) break;
    const auto& hard = data.hard[q];
    const uint64_t drawn =
        Draw(options.seed, kHard, Mix(static_cast<uint64_t>(step)) ^ q);
    const int64_t wanted = std::min(options.hard_negatives, std::ssize(hard));
    for (int64_t h = 0; h < wanted; ++h) {
      column(hard[static_cast<size_t>(Shuffled(h, std::ssize(hard), drawn))]);
    }
  }
  const size_t all = batch.columns.size();
  batch.masked.assign(queries.size() * all, 0);
  for (size_t i = 0; i < queries.size(); ++i) {
    for (int64_t row : data.relevant[queries[i]]) {
      const auto found = columns.find(row);
      if (found == columns.end() || found->second == batch.targets[i]) continue;
      batch.masked[i * all + static_cast<size_t>(found->second)] = 1;
    }
  }
  return batch;
}

void CheckRows(const char* what, const std::vector<std::vector<int64_t>>& lists,
               int64_t documents, bool may_be_empty,
               std::vector<std::string>& reasons) {
  for (size_t q = 0; q < lists.size(); ++q) {
    const auto& rows = lists[q];
    if (rows.empty() && !may_be_empty) {
      reasons.push_back(absl::StrCat("query ", q, " without a document"));
      return;
    }
    if (!std::is_sorted(rows.begin(), rows.end()) ||
        (!rows.empty() && (rows.front() < 0 || rows.back() >= documents))) {
      reasons.push_back(absl::StrCat(what, " of query ", q,
                                     " (want ascending rows below ", documents,
                                     ")"));
      return;
    }
  }
}

absl::Status Check(const model::Encoder& base, const AdapterData& data,
                   const AdapterOptions& o, const model::LoraConfig& lora) {
  std::vector<std::string> reasons = WrongOptions(o);
  const auto want = [&](bool fine, const auto&... reason) {
    if (!fine) reasons.push_back(absl::StrCat(reason...));
  };
  const int64_t width = base.config().width;
  const int64_t documents = std::ssize(data.documents) / width;
  want(o.batch_queries >= 2, "batches of ", o.batch_queries,
       " queries (want at least 2: the others' documents are the negatives)");
  want(o.query_tokens == 0 || o.query_tokens >= 3, "queries cut at ",
       o.query_tokens, " tokens (want at least 3, or 0 for no cut)");
  want(o.dropout >= 0 && o.dropout < 1, "dropout ", o.dropout,
       " (want 0 to below 1)");
  want(o.hard_negatives >= 0, o.hard_negatives, " hard negatives");
  want(o.hard_negatives == 0 || !data.hard.empty(), o.hard_negatives,
       " hard negatives, but none were mined");
  want(data.queries.size() >= 2, data.queries.size(),
       " queries (want at least 2)");
  want(data.relevant.size() == data.queries.size() &&
           (data.hard.empty() || data.hard.size() == data.queries.size()),
       "lists of documents for ", data.relevant.size(), " queries of ",
       data.queries.size());
  want(documents >= 1 && documents * width == std::ssize(data.documents),
       data.documents.size(), " numbers of documents (want vectors of ", width,
       ")");
  want(data.sets.empty() ||
           std::accumulate(data.sets.begin(), data.sets.end(), int64_t{0}) ==
               std::ssize(data.queries),
       "sets that are not all queries together");
  CheckRows("documents", data.relevant, documents, false, reasons);
  CheckRows("hard negatives", data.hard, documents, true, reasons);
  for (size_t q = 0; q < data.queries.size(); ++q) {
    if (const auto s = base.CheckInput({data.queries[q], {}}); !s.ok()) {
      reasons.push_back(absl::StrCat("query ", q, ": ", s.message()));
      break;
    }
  }
  if (reasons.empty()) return model::CheckLoraConfig(base.config(), lora);
  return proto::Invalid("training of an adapter", absl::StrJoin(reasons, "; "),
                        "options and data that fit the encoder",
                        "correct the options or the training plan");
}

std::string DataLine(const AdapterData& data) {
  Fingerprint sum;
  const auto add = [&](const auto& lists) {
    for (const auto& list : lists) {
      sum.Add(list.data(), std::ssize(list) * int64_t{sizeof(list[0])});
    }
  };
  add(data.queries);
  add(data.relevant);
  add(data.hard);
  sum.Add(data.documents.data(),
          static_cast<int64_t>(data.documents.size_bytes()));
  return absl::StrCat("data = ", data.queries.size(), " queries ", sum.Hex());
}

std::string BaseLine(const model::Encoder& base) {
  std::vector<Tensor> tensors;
  model::EncoderWeights views = base.weights();
  model::VisitEncoderWeights(
      base.config(), views,
      [&](const std::string&, const math::Shape&, Tensor& tensor) {
        tensors.push_back(tensor);
      });
  return DigestLine(base.normalise() ? "normalising base" : "base", tensors);
}

Description Describe(const model::Encoder& base, const AdapterData& data,
                     const AdapterOptions& o) {
  const auto exact = [](double value) {
    return absl::StrFormat("%.17g", value);
  };
  Description lines = {
      "run = an adapter",
      absl::StrCat("batch_queries = ", o.batch_queries),
      absl::StrCat("query_tokens = ", o.query_tokens),
      absl::StrCat("rank = ", o.rank),
      absl::StrCat("alpha = ", exact(o.alpha)),
      absl::StrCat("dropout = ", exact(o.dropout)),
      absl::StrCat("targets = ", absl::StrJoin(o.targets, " ")),
      absl::StrCat("hard_negatives = ", o.hard_negatives),
      absl::StrCat("sets = ", o.one_set_a_batch ? absl::StrJoin(data.sets, " ")
                                                : "together"),
      BaseLine(base),
      DataLine(data)};
  for (std::string& line : Describe(o)) lines.push_back(std::move(line));
  return lines;
}

Tensor DocumentsOf(const AdapterData& data, int64_t width) {
  Tensor t;
  t.data = const_cast<float*>(data.documents.data());
  t.shape = {std::ssize(data.documents) / width, width};
  return t;
}

}  // namespace

OwnedLora InitialLora(const model::EncoderConfig& config,
                      const model::LoraConfig& lora, uint64_t seed) {
  OwnedLora owned;
  owned.lora.config = lora;
  uint64_t number = 0;
  model::VisitLora(
      config, owned.lora,
      [&](const std::string& name, const math::Shape& shape, Tensor& tensor) {
        owned.storage.push_back(
            std::make_unique<float[]>(static_cast<size_t>(shape.size())));
        float* values = owned.storage.back().get();
        tensor = {values, math::DType::kF32, math::Device::kCpu, shape};
        const uint64_t stream = Draw(seed, kStart, number++);
        if (!absl::StrContains(name, ".lora_A.")) return;
        const double bound = 1 / std::sqrt(static_cast<double>(tensor.cols()));
        for (int64_t i = 0; i < tensor.size(); ++i) {
          const auto bits = Mix(stream ^ static_cast<uint64_t>(i)) >> 11;
          const double uniform = static_cast<double>(bits) * 0x1p-53;
          values[i] = static_cast<float>((2 * uniform - 1) * bound);
        }
      });
  return owned;
}

AdapterBatch AdapterBatchAt(const AdapterData& data,
                            const AdapterOptions& options, int64_t step) {
  Turns turns(Parts(data, options.one_set_a_batch));
  return BatchOf(data, options, turns.At(step), step);
}

absl::StatusOr<OwnedLora> TrainAdapter(const model::Encoder& base,
                                       const AdapterData& data,
                                       const AdapterOptions& options,
                                       const OnProgress& progress,
                                       TrainResult* result) {
  model::LoraConfig config;
  config.rank = options.rank;
  config.alpha = options.alpha;
  config.dropout = options.dropout;
  config.targets = options.targets;
  std::sort(config.targets.begin(), config.targets.end());
  MOTET_RETURN_IF_ERROR(Check(base, data, options, config));
  AdapterData cut = data;
  for (std::vector<int32_t>& ids : cut.queries) {
    const auto most = static_cast<size_t>(options.query_tokens);
    if (most == 0 || ids.size() <= most) continue;
    ids[most - 1] = ids.back();
    ids.resize(most);
  }
  OwnedLora owned = InitialLora(base.config(), config, options.seed);
  AdapterStepper stepper(base, owned.lora,
                         DocumentsOf(cut, base.config().width),
                         {options.temperature, options.clip_norm,
                          options.weight_decay, options.product});
  Turns turns(Parts(cut, options.one_set_a_batch));
  ContrastiveRun run;
  run.name = "an adapter";
  run.options = options;
  run.description = Describe(base, cut, options);
  run.optimizer = &stepper.optimizer();
  run.gradients = [&](int64_t step) {
    std::optional<uint64_t> noise;
    if (options.dropout > 0) {
      noise = Draw(options.seed, kNoise, static_cast<uint64_t>(step));
    }
    return stepper.Gradients(BatchOf(cut, options, turns.At(step), step),
                             noise);
  };
  run.apply = [&](StepResult& step, double rate) { stepper.Apply(step, rate); };
  MOTET_ASSIGN_OR_RETURN(TrainResult trained, RunContrastive(run, progress));
  if (result != nullptr) *result = std::move(trained);
  return owned;
}

}  // namespace motet::learn
