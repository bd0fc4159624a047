// SPDX-License-Identifier: Apache-2.0
// Method bam [METHODS 3]: as btx, and the models' attentions become experts
// too, mixed softly by a router of their own. Own KV: all of a member's
// attention stays its own. Shared KV: its q and o; k and v are averaged with
// the rest. What is averaged holds every member's weights, so each expert set
// has a trunk of its own, made from the packages when a query first asks for
// it: what answers without an expert is what was composed without it.
#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compose/assemble/member_rows.h"
#include "compose/assemble/method.h"
#include "compose/assemble/set_decoders.h"
#include "compose/assemble/trunk.h"
#include "compose/assemble/tuning.h"
#include "compose/learn/trainer.h"
#include "proto/error.h"

namespace motet::assemble {
namespace {

using math::ExpertMask;
using math::Tensor;

// A trunk and the decoder over it.
struct OnTrunk : SetDecoder {
  Trunk trunk;
};

// What each expert keeps for itself.
OwnTensor OwnOf(bool shared_kv) {
  return [shared_kv](absl::string_view name) {
    if (IsFfn(name)) return true;
    if (!IsAttention(name)) return false;
    return !shared_kv || !(absl::StrContains(name, ".k_proj.") ||
                           absl::StrContains(name, ".v_proj.") ||
                           absl::StrContains(name, ".k_norm."));
  };
}

model::Router RouterOf(const v1::RouterLock& from) {
  model::Router router;
  router.k = from.k();
  router.renormalise = from.renormalise();
  router.null_experts = from.null_experts();
  router.shared = from.shared();
  router.most_active = from.most_active();
  if (from.kind() == "topp") {
    router.kind = model::Router::Kind::kTopP;
    router.top_p = from.top_p();
  }
  return router;
}

class BamComposition : public Composition {
 public:
  explicit BamComposition(int64_t set_bytes)
      : sets_("bam", set_bytes,
              [this](ExpertMask set, const SetDecoders::Room& room)
                  -> absl::StatusOr<std::shared_ptr<SetDecoder>> {
                MOTET_RETURN_IF_ERROR(
                    room(TrunkBytes(base->config, parts_, set, own_)));
                return Make(set);
              }) {}

  absl::Status Init(const v1::CompositionLock& given,
                    const PackageFolder& folder_of,
                    const LoadOptions& options) {
    MOTET_RETURN_IF_ERROR(TakeLock(given, options, *this));
    MOTET_ASSIGN_OR_RETURN(parts_, OpenDenseParts(lock, folder_of));
    MOTET_RETURN_IF_ERROR(TakeBase(parts_.base_folder, *this));
    for (const auto& branch : parts_.branches) {
      if (branch.manifest.kind() != "attention_ffn") {
        return proto::Invalid(branch.manifest.id(),
                              absl::StrCat("kind ", branch.manifest.kind()),
                              "attention_ffn");
      }
      files.push_back(branch.weights);
    }
    const bool shared = lock.bam().kv() == "shared";
    own_ = OwnOf(shared);
    config.experts = static_cast<int64_t>(experts.size());
    config.attention_experts = shared ? model::AttentionExperts::kSharedKv
                                      : model::AttentionExperts::kOwnKv;
    router_ = RouterOf(lock.router());
    config.experts_per_token = std::min(
        router_.k + math::CountExperts(model::SharedFfns(router_)),
        config.experts);
    config.renormalise = router_.renormalise;
    layers_.resize(config.layers);
    for (size_t m = 0; m < experts.size(); ++m) AddMember(m);
    MOTET_RETURN_IF_ERROR(AddRows());
    if (lock.has_tuning()) {
      MOTET_ASSIGN_OR_RETURN(tuned_,
                             ReadTunedRows(lock, options.folder, config));
    }
    MOTET_ASSIGN_OR_RETURN(whole_, Make(All()));
    decoder = std::make_unique<model::Decoder>(*whole_->decoder);
    return absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<const model::Decoder>> DecoderFor(
      ExpertMask set) const override {
    set = (set | 1) & All();
    if (set == All()) return ServedModel::DecoderFor(set);
    return sets_.For(set, experts);
  }

 private:
  // A member's own FFNs and attentions, where they lie; biases and norms in
  // f32, as the decoder wants them.
  void AddMember(size_t member) {
    model::ModelWeights dense;
    model::VisitWeights(
        base->config, dense,
        [&](const std::string& name, const math::Shape& shape, Tensor& to) {
          if (!own_(name)) return;
          to = parts_.Find(member, name);
          if (shape.rank > 1 || to.dtype == math::DType::kF32) return;
          const Tensor narrow = to;
          to = arena_.New(shape);
          learn::Widen(narrow, to);
        });
    for (size_t l = 0; l < layers_.size(); ++l) {
      layers_[l].experts.push_back(dense.layers[l].experts[0]);
      layers_[l].attention_experts.push_back(dense.layers[l]);
    }
  }

  absl::Status AddRows() {
    MOTET_ASSIGN_OR_RETURN(
        const MemberRows ffn,
        RowsOfMembers(base->config, parts_, lock, lock.bam().seed()));
    // Nobody publishes what an attention reads: without random rows all begin
    // as equals.
    MemberRows attention(ffn.size());
    if (RowsBeforeTuning(lock) == "random") {
      attention = RandomRows(base->config, lock, ~lock.bam().seed());
    }
    for (size_t l = 0; l < layers_.size(); ++l) {
      layers_[l].router = Matrix(ffn[l]);
      attention[l].resize(ffn[l].size());
      layers_[l].attention_router = Matrix(attention[l]);
    }
    return absl::OkStatus();
  }
  Tensor Matrix(const std::vector<float>& rows) {
    Tensor matrix = arena_.New({config.experts, config.width});
    std::copy(rows.begin(), rows.end(), matrix.f32());
    return matrix;
  }

  absl::StatusOr<std::shared_ptr<OnTrunk>> Make(ExpertMask set) const {
    auto made = std::make_shared<OnTrunk>();
    MOTET_ASSIGN_OR_RETURN(made->trunk,
                           AverageTrunk(base->config, parts_, set, own_));
    made->bytes = made->trunk.bytes;
    model::ModelWeights weights = made->trunk.weights;
    for (size_t l = 0; l < layers_.size(); ++l) {
      weights.layers[l].experts = layers_[l].experts;
      const bool tuned = TunedServe(lock, set, All());
      weights.layers[l].router = tuned ? tuned_.ffn[l] : layers_[l].router;
      weights.layers[l].attention_experts = layers_[l].attention_experts;
      weights.layers[l].attention_router =
          tuned ? tuned_.attention[l] : layers_[l].attention_router;
    }
    MOTET_ASSIGN_OR_RETURN(
        model::Decoder on,
        model::Decoder::Create(config, std::move(weights), router_));
    made->decoder = std::make_unique<model::Decoder>(std::move(on));
    return made;
  }

  DenseParts parts_;
  OwnTensor own_;
  math::Arena arena_;  // rows, and vectors that are widened
  std::vector<model::LayerWeights> layers_;  // experts and routers alone
  model::Router router_;
  learn::RouterRows tuned_;  // none where nothing was tuned
  std::shared_ptr<const OnTrunk> whole_;
  mutable SetDecoders sets_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Composition>> LoadBam(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options) {
  MOTET_RETURN_IF_ERROR(SameRouter(lock, options));
  auto composition = std::make_unique<BamComposition>(options.set_bytes);
  MOTET_RETURN_IF_ERROR(composition->Init(lock, folder_of, options));
  return composition;
}

}  // namespace motet::assemble
