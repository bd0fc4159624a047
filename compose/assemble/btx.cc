// SPDX-License-Identifier: Apache-2.0
// Method btx [METHODS 2]: whole models become the experts of one mixture. The
// base is expert 0; each model's FFNs are used where they are mapped; all
// else is the uniform mean over the members. That mean holds every member's
// weights, so each expert set has a trunk of its own, made from the packages
// when a query first asks for the set: what answers without an expert is what
// was composed without it.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/assemble/member_rows.h"
#include "compose/assemble/method.h"
#include "compose/assemble/set_decoders.h"
#include "compose/assemble/trunk.h"
#include "compose/assemble/tuning.h"
#include "compose/learn/trainer.h"
#include "compose/model/mixture.h"
#include "proto/error.h"

namespace motet::assemble {
namespace {

using math::ExpertMask;
using math::Tensor;

// A trunk and the decoder over it.
struct OnTrunk : SetDecoder {
  Trunk trunk;
};

model::Router RouterOf(const v1::CompositionLock& lock, int64_t ffns) {
  const v1::RouterLock& from = lock.router();
  model::Router router;
  router.chunks = lock.btx().chunks();
  router.k = from.k();
  router.renormalise = from.renormalise();
  router.null_experts = from.null_experts();
  router.shared = from.shared();
  router.most_active = from.most_active();
  if (from.kind() == "topp") {
    router.kind = model::Router::Kind::kTopP;
    router.top_p = from.top_p();
  } else if (from.kind() == "soft") {
    router.k = ffns;
  } else if (from.kind() != "topk") {  // switch, sample: the best alone
    router.k = 1;
    router.most_active = 1;
  }
  return router;
}

class BtxComposition : public Composition {
 public:
  explicit BtxComposition(int64_t set_bytes)
      : sets_("btx", set_bytes,
              [this](ExpertMask set, const SetDecoders::Room& room)
                  -> absl::StatusOr<std::shared_ptr<SetDecoder>> {
                MOTET_RETURN_IF_ERROR(
                    room(TrunkBytes(base->config, parts_, set, IsFfn)));
                return Make(set);
              }) {}

  absl::Status Init(const v1::CompositionLock& given,
                    const PackageFolder& folder_of,
                    const LoadOptions& options) {
    MOTET_RETURN_IF_ERROR(TakeLock(given, options, *this));
    MOTET_ASSIGN_OR_RETURN(parts_, OpenDenseParts(lock, folder_of));
    MOTET_RETURN_IF_ERROR(TakeBase(parts_.base_folder, *this));
    for (const auto& branch : parts_.branches) {
      files.push_back(branch.weights);
    }
    const auto chunks = static_cast<int64_t>(lock.btx().chunks());
    config.experts = static_cast<int64_t>(experts.size()) * chunks;
    config.ffn_width /= chunks;
    router_ = RouterOf(lock, config.experts);
    config.experts_per_token = std::min(
        router_.k + math::CountExperts(model::SharedFfns(router_)),
        config.experts);
    config.renormalise = router_.renormalise;
    layers_.resize(config.layers);
    for (size_t m = 0; m < experts.size(); ++m) {
      MOTET_RETURN_IF_ERROR(AddFfns(m, chunks));
    }
    MOTET_RETURN_IF_ERROR(AddRows(chunks));
    if (lock.has_tuning()) {
      MOTET_ASSIGN_OR_RETURN(tuned_,
                             ReadTunedRows(lock, options.folder, config));
      for (Tensor& rows : tuned_.ffn) Scale(rows);
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
  // Views of a member's FFNs; in chunks, copies of the down projections,
  // times the number of chunks: gates sum to 1 over the FFNs chosen, so the
  // chunks of one expert, chosen evenly, are that expert.
  absl::Status AddFfns(size_t member, int64_t chunks) {
    model::ModelWeights dense;
    model::VisitWeights(
        base->config, dense,
        [&](const std::string& name, const math::Shape&, Tensor& tensor) {
          if (IsFfn(name)) tensor = parts_.Find(member, name);
        });
    for (size_t l = 0; l < layers_.size(); ++l) {
      const model::FfnWeights& ffn = dense.layers[l].experts[0];
      std::vector<model::FfnWeights>& to = layers_[l].experts;
      if (chunks == 1) {
        to.push_back(ffn);
        continue;
      }
      if (ffn.down.cols() % chunks != 0) {
        return proto::Invalid(
            experts[member].id, absl::StrCat("FFN width ", ffn.down.cols()),
            absl::StrCat("a multiple of btx.chunks = ", chunks));
      }
      for (model::FfnWeights& part : model::SplitFfn(arena_, ffn, chunks)) {
        Tensor scaled = part.down;
        scaled.dtype = math::DType::kF32;
        if (part.down.dtype != math::DType::kF32) {
          scaled = arena_.New(part.down.shape);
          learn::Widen(part.down, scaled);
        }
        for (int64_t i = 0; i < scaled.size(); ++i) {
          scaled.f32()[i] *= static_cast<float>(chunks);
        }
        part.down = scaled;
        to.push_back(part);
      }
    }
    return absl::OkStatus();
  }

  // Each row once for every chunk.
  absl::Status AddRows(int64_t chunks) {
    MOTET_ASSIGN_OR_RETURN(
        const auto rows,
        RowsOfMembers(base->config, parts_, lock, lock.btx().seed()));
    const int64_t width = config.width;
    for (size_t l = 0; l < layers_.size(); ++l) {
      Tensor matrix = arena_.New({config.experts, width});
      for (int64_t r = 0; r < config.experts; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          matrix.f32()[r * width + c] = rows[l][r / chunks * width + c];
        }
      }
      Scale(matrix);
      layers_[l].router = matrix;
    }
    return absl::OkStatus();
  }

  // A sampling router is trained on logits over its temperature.
  void Scale(Tensor rows) const {
    if (lock.router().kind() != "sample") return;
    const double scale = 1 / lock.router().temperature();
    for (int64_t i = 0; i < rows.size(); ++i) {
      rows.f32()[i] = static_cast<float>(scale * rows.f32()[i]);
    }
  }

  absl::StatusOr<std::shared_ptr<OnTrunk>> Make(ExpertMask set) const {
    auto made = std::make_shared<OnTrunk>();
    MOTET_ASSIGN_OR_RETURN(made->trunk,
                           AverageTrunk(base->config, parts_, set, IsFfn));
    made->bytes = made->trunk.bytes;
    model::ModelWeights weights = made->trunk.weights;
    for (size_t l = 0; l < layers_.size(); ++l) {
      weights.layers[l].experts = layers_[l].experts;
      weights.layers[l].router =
          TunedServe(lock, set, All()) ? tuned_.ffn[l] : layers_[l].router;
    }
    MOTET_ASSIGN_OR_RETURN(
        model::Decoder on,
        model::Decoder::Create(config, std::move(weights), router_));
    made->decoder = std::make_unique<model::Decoder>(std::move(on));
    return made;
  }

  DenseParts parts_;
  math::Arena arena_;                        // rows and chunks
  std::vector<model::LayerWeights> layers_;  // experts and router alone
  model::Router router_;
  learn::RouterRows tuned_;  // none where nothing was tuned
  std::shared_ptr<const OnTrunk> whole_;
  mutable SetDecoders sets_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Composition>> LoadBtx(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options) {
  MOTET_RETURN_IF_ERROR(SameRouter(lock, options));
  auto composition = std::make_unique<BtxComposition>(options.set_bytes);
  MOTET_RETURN_IF_ERROR(composition->Init(lock, folder_of, options));
  return composition;
}

}  // namespace motet::assemble
