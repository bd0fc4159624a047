// SPDX-License-Identifier: Apache-2.0
// The method ensemble: a lock and package folders in, models that answer
// together out. Weights stay mapped where the packages lie; a model that
// differs from the base in some tensors reads the others from the base.
//
// A set's scorer is made of the set's models alone and starts from the same
// prior for each of them, so what answers without an expert is what was
// composed without it.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/assemble/ensemble_prior.h"
#include "compose/assemble/ensemble_scorer.h"
#include "compose/assemble/member_rows.h"
#include "compose/assemble/method.h"
#include "compose/assemble/verify.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_branch.h"
#include "compose/package/manifest_dense.h"
#include "compose/package/manifest_kinds.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::assemble {
namespace {

using math::ExpertMask;
using math::Tensor;
using package::SafetensorsFile;

// A model with what it reads.
struct Member {
  std::shared_ptr<const SafetensorsFile> file;
  std::unique_ptr<package::LoadedModel> branch;   // of a whole model
  std::vector<std::unique_ptr<float[]>> storage;  // router rows of a pair
  std::unique_ptr<model::Decoder> decoder;
};

// The base's trunk with the expert's FFN: in place of its own, or beside it
// as the owner trained it.
absl::Status LoadFfn(const package::LoadedModel& base, bool pair,
                     const std::string& where, Member& member) {
  model::ModelConfig config = base.config;
  model::ModelWeights weights = base.weights;
  model::Router router;
  if (pair) {
    config.experts = config.experts_per_token = 2;
    // As a composition of the two would (METHODS 1).
    config.renormalise = config.block == model::Block::kPreNorm;
    router.k = 2;
    router.renormalise = config.renormalise;
  }
  const int64_t width = config.width;
  for (int64_t l = 0; l < config.layers; ++l) {
    model::LayerWeights& layer = weights.layers[l];
    const std::string prefix = absl::StrCat("layers.", l, ".");
    model::FfnWeights ffn;
    ffn.gate = member.file->Find(prefix + "mlp.gate_proj.weight");
    ffn.up = member.file->Find(prefix + "mlp.up_proj.weight");
    ffn.down = member.file->Find(prefix + "mlp.down_proj.weight");
    if (!pair) {
      layer.experts = {ffn};
      if (l == 0 && !ffn.gate.empty()) config.ffn_width = ffn.gate.rows();
      continue;
    }
    layer.experts.push_back(ffn);
    const Tensor row = member.file->Find(prefix + "router.row");
    if (row.dtype != math::DType::kF32 || row.size() != width) {
      return proto::Invalid(where,
                            absl::StrCat("no fitting ", prefix, "router.row"),
                            absl::StrCat("F32 [", width, "]"),
                            "fetch the package again or ask its owner");
    }
    // The base's row is zeros: a dense base has no router.
    auto rows = std::make_unique<float[]>(static_cast<size_t>(2 * width));
    std::copy_n(row.f32(), width, rows.get() + width);
    layer.router = {};
    layer.router.data = rows.get();
    layer.router.shape = {2, width};
    member.storage.push_back(std::move(rows));
  }
  MOTET_ASSIGN_OR_RETURN(
      model::Decoder decoder,
      model::Decoder::Create(config, std::move(weights), std::move(router)));
  member.decoder = std::make_unique<model::Decoder>(std::move(decoder));
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const Member>> LoadMember(
    const std::string& folder, v1::ExpertManifest expert,
    const v1::BaseReference& locked, const v1::ExpertManifest& base_manifest,
    const package::LoadedModel& base, const std::string& ffn) {
  auto member = std::make_shared<Member>();
  const std::string where = absl::StrCat("expert ", expert.id());
  package::OpenedPackage opened;
  opened.folder = folder;
  opened.manifest = std::move(expert);
  const auto same = [&](const char* what, const std::string& got,
                        const std::string& want) -> absl::Status {
    if (got == want) return absl::OkStatus();
    return proto::Invalid(where, absl::StrCat(what, " = \"", got, "\""),
                          absl::StrCat("\"", want, "\", of the lock's base"),
                          "apply the recipe again");
  };
  MOTET_ASSIGN_OR_RETURN(
      member->file, SafetensorsFile::Open(folder + "/weights.safetensors"));
  if (opened.manifest.kind() == "ffn") {
    MOTET_RETURN_IF_ERROR(same("base.manifest_sha256",
                               opened.manifest.base().manifest_sha256(),
                               locked.manifest_sha256()));
    MOTET_RETURN_IF_ERROR(same("frozen_sha256", opened.manifest.frozen_sha256(),
                               package::FrozenDigest(base_manifest)));
    MOTET_RETURN_IF_ERROR(
        LoadFfn(base, !RunsAlone(opened.manifest, ffn), where, *member));
    return member;
  }
  MOTET_RETURN_IF_ERROR(package::AsStatus(
      where, package::CheckDense(opened.manifest, base_manifest),
      absl::StrCat("a branch of the base ", base_manifest.id()),
      "ask its owner for a correct one"));
  opened.weights = member->file;
  MOTET_ASSIGN_OR_RETURN(member->branch, package::LoadBranch(opened, base));
  MOTET_ASSIGN_OR_RETURN(
      model::Decoder decoder,
      model::Decoder::Create(member->branch->config, member->branch->weights,
                             model::RouterOf(member->branch->config)));
  member->decoder = std::make_unique<model::Decoder>(std::move(decoder));
  return member;
}

class EnsembleComposition : public Composition {
 public:
  absl::Status Init(const v1::CompositionLock& given,
                    const PackageFolder& folder_of,
                    const LoadOptions& options) {
    MOTET_RETURN_IF_ERROR(TakeLock(given, options, *this));
    Verifier verifier;
    MOTET_ASSIGN_OR_RETURN(const std::string folder,
                           folder_of(lock.base().manifest_sha256()));
    MOTET_RETURN_IF_ERROR(verifier.Base(folder, lock.base()).status());
    std::vector<std::string> folders;
    std::vector<v1::ExpertManifest> manifests;
    for (const v1::LockedExpert& expert : lock.experts()) {
      MOTET_ASSIGN_OR_RETURN(folders.emplace_back(),
                             folder_of(expert.manifest_sha256()));
      MOTET_ASSIGN_OR_RETURN(manifests.emplace_back(),
                             verifier.Expert(folders.back(), expert));
    }
    MOTET_RETURN_IF_ERROR(VerifyWhen(options.verify, verifier, *this));
    MOTET_RETURN_IF_ERROR(TakeBase(folder, *this));
    MOTET_ASSIGN_OR_RETURN(
        const std::string text,
        proto::ReadFile(folder + "/manifest.json", proto::kMaxManifestBytes));
    MOTET_ASSIGN_OR_RETURN(const v1::ExpertManifest manifest,
                           package::ParseManifest(text));
    auto alone = std::make_shared<Member>();
    MOTET_ASSIGN_OR_RETURN(model::Decoder decoder_of_base,
                           model::Decoder::Create(config, base->weights, {}));
    alone->decoder =
        std::make_unique<model::Decoder>(std::move(decoder_of_base));
    members_ = {std::move(alone)};
    if (lock.ensemble().weights() == "centroid") {
      std::vector<const v1::ExpertManifest*> of;
      for (const v1::ExpertManifest& m : manifests) of.push_back(&m);
      MOTET_ASSIGN_OR_RETURN(directions_, MeanRows(config, folder, of));
    }
    for (size_t i = 0; i < folders.size(); ++i) {
      MOTET_ASSIGN_OR_RETURN(
          auto member,
          LoadMember(folders[i], std::move(manifests[i]), lock.base(), manifest,
                     *base, lock.ensemble().ffn()));
      files.push_back(member->file);
      members_.push_back(std::move(member));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<const model::Decoder>> DecoderFor(
      ExpertMask) const override {
    return proto::Error(
        absl::StatusCode::kFailedPrecondition, name,
        absl::StrCat("an ensemble of ", members_.size() - 1, " experts"),
        "one model", "run it as an ensemble");
  }

  absl::StatusOr<std::shared_ptr<const model::Scorer>> ScorerFor(
      ExpertMask set, int32_t active) const override {
    if (active != 0) {
      return proto::Invalid("experts.active", absl::StrCat(active),
                            "none: whole models answer together",
                            "leave it out");
    }
    set = (set | 1) & All();
    // The base answers where it is one of the models, and where it is alone.
    const bool with_base =
        lock.ensemble().base() || (set & ~ExpertMask{1}) == 0;
    EnsembleScorer::Models models;
    for (size_t j = with_base ? 0 : 1; j < members_.size(); ++j) {
      if (j > 0 && (set >> j & 1) == 0) continue;
      models.push_back(MemberScorer(j));
    }
    EnsembleRule rule;
    const v1::EnsembleLock& ensemble = lock.ensemble();
    rule.top_k = ensemble.top_k();
    using Weights = EnsembleRule::Weights;
    rule.weights = ensemble.weights() == "bayes"      ? Weights::kBayes
                   : ensemble.weights() == "centroid" ? Weights::kCentroid
                                                      : Weights::kFixed;
    if (models.size() > 1 && ensemble.has_prior()) {
      rule.prior = PriorOf(ensemble.prior(), set);
    }
    if (rule.weights == Weights::kCentroid) {
      rule.temperature = ensemble.temperature();
      if (!with_base) rule.reader = MemberScorer(0);
      rule.centres = CentresOf(set, with_base);
    }
    return std::make_shared<EnsembleScorer>(std::move(models), std::move(rule));
  }

 private:
  // A member is itself whatever the set: its mask is of its own pair.
  std::shared_ptr<const model::DecoderScorer> MemberScorer(size_t j) const {
    return std::make_shared<model::DecoderScorer>(
        std::shared_ptr<const model::Decoder>(members_[j],
                                              members_[j]->decoder.get()),
        ~ExpertMask{0});
  }

  // The set's rows of the members' directions, layer by layer.
  std::vector<std::vector<float>> CentresOf(ExpertMask set,
                                            bool with_base) const {
    const auto width = static_cast<size_t>(config.width);
    std::vector<std::vector<float>> centres;
    for (const std::vector<float>& all : directions_) {
      std::vector<float>& layer = centres.emplace_back();
      for (size_t j = with_base ? 0 : 1; j < members_.size(); ++j) {
        if (j > 0 && (set >> j & 1) == 0) continue;
        const auto row = std::span(all).subspan(j * width, width);
        layer.insert(layer.end(), row.begin(), row.end());
      }
    }
    return centres;
  }

  std::vector<std::shared_ptr<const Member>> members_;  // 0: the base
  // Centroids: [L] of [members, C], the means of the base's router inputs over
  // owners' documents, of norm 1; the base's over public text.
  MemberRows directions_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Composition>> LoadEnsemble(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options) {
  if (!options.router.empty()) {
    return proto::Invalid("composition",
                          absl::StrCat("router \"", options.router, "\""),
                          "none: an ensemble weighs whole models");
  }
  auto composition = std::make_unique<EnsembleComposition>();
  MOTET_RETURN_IF_ERROR(composition->Init(lock, folder_of, options));
  return composition;
}

}  // namespace motet::assemble
