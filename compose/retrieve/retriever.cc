// SPDX-License-Identifier: Apache-2.0
// Everything that a lock names is checked before anything answers: digests,
// that adapters and pilots are of this base, and that pilots were made with
// the adapters that are composed. A set's routing is made of the set's pilots
// alone, in the lock's order, so that it is that of the set composed alone.
#include "compose/retrieve/retriever.h"

#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/method.h"
#include "compose/assemble/verify.h"
#include "compose/package/safetensors.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::retrieve {
namespace {

using math::ExpertMask;
using proto::Invalid;

constexpr char kAgain[] = "apply the recipe again";

bool Has(ExpertMask set, int position) { return (set >> position & 1) != 0; }

std::string NameOf(const std::string& id) { return id.substr(0, id.find('@')); }

// The same texts by one encoder or another, each by its own.
class RoutedQueryEncoder : public QueryEncoder {
 public:
  struct Expert {
    std::string name;
    const model::Lora* lora;
  };
  RoutedQueryEncoder(const TextEncoder* base, PilotRouter router,
                     std::map<int, Expert> experts)
      : base_(base), router_(std::move(router)), experts_(std::move(experts)) {}

  absl::StatusOr<Queries> Encode(
      std::span<const std::string> queries) const override {
    Queries out;
    MOTET_ASSIGN_OR_RETURN(out.vectors, base_->Encode(queries));
    out.experts.resize(queries.size());
    const std::vector<int> route = router_.Route(out.vectors.values);
    std::map<int, std::vector<size_t>> groups;
    for (size_t q = 0; q < route.size(); ++q) {
      if (route[q] >= 0) groups[route[q]].push_back(q);
    }
    const auto width = static_cast<size_t>(base_->width());
    for (const auto& [position, members] : groups) {
      const Expert& expert = experts_.at(position);
      std::vector<std::string> texts;
      for (const size_t q : members) texts.push_back(queries[q]);
      MOTET_ASSIGN_OR_RETURN(const Vectors own,
                             base_->Encode(texts, expert.lora));
      for (size_t i = 0; i < members.size(); ++i) {
        std::copy_n(own.values.begin() + static_cast<ptrdiff_t>(i * width),
                    width,
                    out.vectors.values.begin() +
                        static_cast<ptrdiff_t>(members[i] * width));
        out.experts[members[i]] = expert.name;
      }
    }
    return out;
  }
  const TextEncoder& base() const override { return *base_; }

 private:
  const TextEncoder* base_;
  PilotRouter router_;
  std::map<int, Expert> experts_;  // by position
};

// A package for this base, of the kind that the lock takes it for.
absl::Status CheckPackage(const v1::ExpertManifest& manifest,
                          const std::string& kind, const std::string& id,
                          const v1::BaseReference& base) {
  const auto same = [&](const char* what, const std::string& got,
                        const std::string& want) -> absl::Status {
    if (got == want) return absl::OkStatus();
    return Invalid(id, absl::StrCat(what, " \"", got, "\""),
                   absl::StrCat("\"", want, "\""), kAgain);
  };
  MOTET_RETURN_IF_ERROR(same("id", manifest.id(), id));
  MOTET_RETURN_IF_ERROR(same("kind", manifest.kind(), kind));
  MOTET_RETURN_IF_ERROR(same("base manifest", manifest.base().manifest_sha256(),
                             base.manifest_sha256()));
  return same("base weights", manifest.base().weights_sha256(),
              base.weights_sha256());
}

// What the encoder's loader would read though nobody signed it.
absl::Status CheckNothingElse(const std::string& folder,
                              const v1::ExpertManifest& manifest) {
  std::set<std::string> listed;
  for (const v1::FileDigest& file : manifest.files()) {
    listed.insert(file.path());
  }
  for (const char* file :
       {"model.safetensors", "model.safetensors.index.json", "modules.json",
        "1_Pooling/config.json", "sentence_bert_config.json"}) {
    const std::string path = absl::StrCat(folder, "/", file);
    if (listed.contains(file) || !proto::Exists(path)) continue;
    return proto::Error(absl::StatusCode::kDataLoss, path, "a file",
                        "none: the manifest does not list it",
                        "remove the folder, so that it is fetched again");
  }
  return absl::OkStatus();
}

absl::Status CheckAdapter(const v1::ExpertManifest& manifest,
                          const model::LoraConfig& config) {
  const v1::AdapterRecord& said = manifest.adapter();
  const std::set<std::string> targets(said.targets().begin(),
                                      said.targets().end());
  const std::set<std::string> own(config.targets.begin(), config.targets.end());
  const auto text = [](int64_t rank, double alpha, const auto& names) {
    return absl::StrCat("rank ", rank, ", alpha ", alpha, ", targets ",
                        absl::StrJoin(names, " and "));
  };
  if (said.rank() == config.rank && said.alpha() == config.alpha &&
      targets == own) {
    return absl::OkStatus();
  }
  return Invalid(
      manifest.id(),
      absl::StrCat("an adapter of ", text(config.rank, config.alpha, own)),
      absl::StrCat("what its manifest says: ",
                   text(said.rank(), said.alpha(), targets)),
      "ask its owner for a correct one");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Retriever>> Retriever::Load(
    const v1::CompositionLock& lock, const assemble::PackageFolder& folder_of,
    math::Product product, const assemble::LoadOptions& options) {
  if (lock.method() != "router_retriever") {
    return Invalid(absl::StrCat("lock of ", lock.name()),
                   absl::StrCat("method \"", lock.method(), "\""),
                   "\"router_retriever\", which searches",
                   "use a composition of encoders");
  }
  if (!options.router.empty()) {
    return Invalid("composition",
                   absl::StrCat("router \"", options.router, "\""),
                   "none: pilots route queries");
  }
  auto retriever = std::unique_ptr<Retriever>(new Retriever);
  MOTET_ASSIGN_OR_RETURN(retriever->lock_,
                         assemble::SelectExperts(lock, options));
  MOTET_RETURN_IF_ERROR(retriever->Init(folder_of, product, options));
  return retriever;
}

absl::StatusOr<std::unique_ptr<Retriever>> Retriever::OfDirectory(
    const std::string& folder, math::Product product) {
  auto retriever = std::unique_ptr<Retriever>(new Retriever);
  MOTET_ASSIGN_OR_RETURN(retriever->base_, TextEncoder::Load(folder, product));
  std::error_code error;
  const auto path = std::filesystem::canonical(folder, error);
  retriever->name =
      error || path.filename().empty() ? "encoder" : path.filename().string();
  return retriever;
}

absl::Status Retriever::Init(const assemble::PackageFolder& folder_of,
                             math::Product product,
                             const assemble::LoadOptions& options) {
  assemble::DescribeServed(lock_, *this);

  // Manifests and digests of all, before anything is used.
  assemble::Verifier verifier;
  MOTET_ASSIGN_OR_RETURN(const std::string base_folder,
                         folder_of(lock_.base().manifest_sha256()));
  MOTET_ASSIGN_OR_RETURN(const v1::ExpertManifest base,
                         verifier.Base(base_folder, lock_.base()));
  MOTET_RETURN_IF_ERROR(CheckNothingElse(base_folder, base));
  std::vector<std::string> folders;
  std::vector<v1::ExpertManifest> manifests;
  for (const v1::LockedExpert& expert : lock_.experts()) {
    MOTET_ASSIGN_OR_RETURN(folders.emplace_back(),
                           folder_of(expert.manifest_sha256()));
    MOTET_ASSIGN_OR_RETURN(
        manifests.emplace_back(),
        verifier.Expert(folders.back(), expert, {"adapter_config.json"}));
    MOTET_RETURN_IF_ERROR(CheckPackage(manifests.back(), "embedding_adapter",
                                       expert.id(), lock_.base()));
  }
  std::vector<std::pair<std::string, v1::ExpertManifest>> pilots;
  for (const v1::LockedPilots& locked : lock_.retriever().pilots()) {
    MOTET_ASSIGN_OR_RETURN(std::string folder,
                           folder_of(locked.manifest_sha256()));
    MOTET_ASSIGN_OR_RETURN(v1::ExpertManifest manifest,
                           verifier.Pilots(folder, locked));
    MOTET_RETURN_IF_ERROR(
        CheckPackage(manifest, "pilots", locked.id(), lock_.base()));
    pilots.emplace_back(std::move(folder), std::move(manifest));
  }
  if (options.verify != assemble::Verify::kFresh) {
    MOTET_RETURN_IF_ERROR(verifier.Files());
  }

  MOTET_ASSIGN_OR_RETURN(base_, TextEncoder::Load(base_folder, product));
  adapters_.resize(1);
  for (size_t i = 0; i < folders.size(); ++i) {
    MOTET_ASSIGN_OR_RETURN(adapters_.emplace_back(),
                           package::LoadLora(folders[i], base_->config()));
    MOTET_RETURN_IF_ERROR(
        CheckAdapter(manifests[i], adapters_.back()->lora.config));
  }
  for (size_t i = 0; i < pilots.size(); ++i) {
    MOTET_ASSIGN_OR_RETURN(
        libraries_.emplace_back(),
        ReadLibrary(lock_.retriever().pilots(static_cast<int>(i)),
                    pilots[i].first, pilots[i].second));
  }
  return absl::OkStatus();
}

absl::StatusOr<Retriever::Library> Retriever::ReadLibrary(
    const v1::LockedPilots& locked, const std::string& folder,
    const v1::ExpertManifest& manifest) const {
  const v1::PilotRecord& record = manifest.pilots();
  if (NameOf(record.of()) != NameOf(locked.of())) {
    return Invalid(locked.id(), absl::StrCat("pilots of ", record.of()),
                   absl::StrCat("the lock's ", locked.of()), kAgain);
  }
  std::map<std::string, const v1::LockedExpert*> by_name;
  std::map<std::string, int> positions;
  for (int e = 0; e < lock_.experts_size(); ++e) {
    const std::string of = NameOf(lock_.experts(e).id());
    by_name[of] = &lock_.experts(e);
    positions[of] = e + 1;
  }
  std::map<std::string, std::string> scored;
  for (const v1::PilotExpert& expert : record.experts()) {
    scored[expert.id()] = expert.weights_sha256();
  }
  const std::string path = folder + "/weights.safetensors";
  MOTET_ASSIGN_OR_RETURN(const auto file, package::SafetensorsFile::Open(path));
  const math::Tensor tensor = file->Find("pilots");
  const math::Shape want = {record.groups_size(), base_->width()};
  if (tensor.empty() || tensor.dtype != math::DType::kF32 ||
      tensor.shape != want) {
    return Invalid(path,
                   tensor.empty() ? "no tensor pilots"
                                  : absl::StrCat("tensor pilots ",
                                                 tensor.shape.ToString()),
                   absl::StrCat("F32 ", want.ToString()),
                   "ask its owner for a correct one");
  }
  if (lock_.retriever().gate() && record.gate_share() <= 0) {
    return Invalid(locked.id(), "pilots without gates",
                   "gates, which the lock asks for",
                   "let its owner make the pilots again");
  }
  Library library;
  library.expert = positions.at(NameOf(locked.of()));
  for (int g = 0; g < record.groups_size(); ++g) {
    const std::string& id = record.groups(g).expert();
    const auto position = positions.find(NameOf(id));
    if (position == positions.end()) continue;  // not in this composition
    const auto made = scored.find(id);
    const std::string& composed = by_name[NameOf(id)]->weights_sha256();
    if (made == scored.end() || made->second != composed) {
      return Invalid(
          locked.id(), absl::StrCat("a pilot made with another adapter ", id),
          absl::StrCat("the composed one, weights ", composed.substr(0, 12)),
          "let its owner make the pilots again");
    }
    const float* pilot = tensor.f32() + g * base_->width();
    for (int64_t c = 0; c < base_->width(); ++c) {
      if (std::isfinite(pilot[c])) continue;
      return Invalid(path, absl::StrCat("pilot ", g, " with ", pilot[c]),
                     "numbers", "ask its owner for a correct one");
    }
    // A mean of vectors of length 1 is no longer than they; by the inner
    // product a longer one would draw queries that are not its.
    double squares = 0;
    for (int64_t c = 0; c < base_->width(); ++c) {
      squares += static_cast<double>(pilot[c]) * pilot[c];
    }
    const double most =
        1.001 + 6 * record.noise() * std::sqrt(double(base_->width()));
    if (base_->encoder().normalise() && std::sqrt(squares) > most) {
      return Invalid(
          path, absl::StrCat("pilot ", g, " of length ", std::sqrt(squares)),
          absl::StrCat("at most ", most,
                       ", as means of vectors of length 1 are"),
          "ask its owner for a correct one");
    }
    library.vectors.insert(library.vectors.end(), pilot,
                           pilot + base_->width());
    library.experts.push_back(position->second);
    library.queries.push_back(static_cast<int64_t>(record.groups(g).queries()));
    library.gates.push_back(record.groups(g).gate());
  }
  return library;
}

PilotRouter Retriever::RouterFor(ExpertMask set) const {
  std::vector<float> vectors;
  std::vector<int> of;
  std::vector<int64_t> queries;
  std::vector<double> gates;
  const v1::RetrieverLock& how = lock_.retriever();
  const auto width = static_cast<size_t>(base_->width());
  for (const Library& library : libraries_) {
    if (!Has(set, library.expert)) continue;
    for (size_t i = 0; i < library.experts.size(); ++i) {
      if (!Has(set, library.experts[i])) continue;
      const auto pilot = std::span(library.vectors).subspan(i * width, width);
      vectors.insert(vectors.end(), pilot.begin(), pilot.end());
      of.push_back(library.experts[i]);
      queries.push_back(library.queries[i]);
      if (how.gate()) gates.push_back(library.gates[i]);
    }
  }
  return PilotRouter(
      std::move(vectors), std::move(of), base_->width(),
      how.similarity() == "cosine" ? Similarity::kCosine : Similarity::kDot,
      how.aggregate() == "max"        ? Aggregate::kMax
      : how.aggregate() == "weighted" ? Aggregate::kWeighted
                                      : Aggregate::kMean,
      std::move(queries), std::move(gates));
}

std::unique_ptr<QueryEncoder> Retriever::QueriesFor(ExpertMask set) const {
  std::map<int, RoutedQueryEncoder::Expert> answering;
  for (size_t e = 1; e < adapters_.size(); ++e) {
    if (!Has(set, static_cast<int>(e))) continue;
    answering[static_cast<int>(e)] = {experts[e].id, &adapters_[e]->lora};
  }
  return std::make_unique<RoutedQueryEncoder>(base_.get(), RouterFor(set),
                                              std::move(answering));
}

int64_t Retriever::PilotsFor(ExpertMask set) const {
  return RouterFor(set).pilots();
}

absl::Status Retriever::CheckActive(uint32_t active) const {
  if (active == 0) return absl::OkStatus();
  return Invalid("experts.active", absl::StrCat("active = ", active),
                 "none: one expert answers a query", "leave it out");
}

}  // namespace motet::retrieve
