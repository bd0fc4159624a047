// SPDX-License-Identifier: Apache-2.0
// What must hold before a decoder exists: config, weights and router fit one
// another. After this the forward pass cannot fail.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/model/decoder.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using math::AnchoredLayer;
using math::Shape;
using math::Tensor;

void CheckAnchored(const ModelConfig& config, int64_t l,
                   const AnchoredLayer& layer,
                   std::vector<std::string>& reasons) {
  const auto check = [&](const char* name, const Tensor& tensor,
                         const Shape& want) {
    if (!tensor.empty() && tensor.shape == want &&
        tensor.dtype == math::DType::kF32) {
      return;
    }
    reasons.push_back(absl::StrCat(
        "layer ", l, "'s ", name, " ",
        tensor.empty() ? std::string("absent")
                       : absl::StrCat(math::Name(tensor.dtype), " ",
                                      tensor.shape.ToString()),
        " (want F32 ", want.ToString(), ")"));
  };
  const int64_t experts = config.experts, width = config.width;
  check("selection vectors", layer.select, {experts, width});
  check("selection offsets", layer.offset, {experts});
  check("router rows", layer.rows, {experts, width});
  if (layer.gate) {
    check("pair means", layer.pair_mean, {experts, width});
    check("thresholds", layer.threshold, {experts});
    if (layer.factor.empty()) {
      check("precision", layer.precision, {width, width});
    } else {
      const int64_t rank = std::clamp<int64_t>(layer.factor.rows(), 1, width);
      check("gate's factor", layer.factor, {rank, width});
    }
  }
  if (!(layer.smoothing >= 0 && layer.smoothing < 1)) {
    reasons.push_back(absl::StrCat("layer ", l, "'s smoothing ",
                                   layer.smoothing,
                                   " (want 0 to less than 1)"));
  }
}

absl::Status CheckRouter(const ModelConfig& config, const Router& router) {
  std::vector<std::string> reasons;
  if (config.experts == 0) return absl::OkStatus();
  const auto range = [&](const char* what, double value, bool good,
                         const char* want) {
    if (good) return;
    reasons.push_back(absl::StrCat(what, " = ", value, " (want ", want, ")"));
  };
  range("null_experts", static_cast<double>(router.null_experts),
        router.null_experts >= 0, "0 or more");
  range("most_active", static_cast<double>(router.most_active),
        router.most_active >= 0, "0 or more");
  range("chunks", static_cast<double>(router.chunks),
        router.chunks >= 1 && config.experts % router.chunks == 0,
        "a divisor of the number of FFNs");
  range("shared", router.shared ? 1 : 0,
        !router.shared ||
            (router.kind == Router::Kind::kTopK && router.base_always),
        "0 but for top-k with the base in every set");
  if (router.kind == Router::Kind::kTopK) {
    range("k", static_cast<double>(router.k), router.k >= 1, "at least 1");
  } else if (router.kind == Router::Kind::kTopP) {
    range("top_p", router.top_p, router.top_p > 0 && router.top_p <= 1,
          "above 0, at most 1");
  } else if (static_cast<int64_t>(router.anchored.size()) != config.layers) {
    reasons.push_back(absl::StrCat(
        router.anchored.size(), " anchored layers (want ", config.layers, ")"));
  } else {
    for (int64_t l = 0; l < config.layers; ++l) {
      CheckAnchored(config, l, router.anchored[l], reasons);
    }
  }
  if (reasons.empty()) return absl::OkStatus();
  return proto::Invalid("router", absl::StrJoin(reasons, ", "),
                        "a router of the model's shape",
                        "build router and model from the same packages");
}

}  // namespace

bool TakesActive(const Router& router) {
  return router.kind != Router::Kind::kAnchored;
}

math::ExpertMask SharedFfns(const Router& router) {
  return router.shared ? math::FirstExperts(router.chunks) : 0;
}

Router RouterOf(const ModelConfig& config) {
  Router router;
  if (config.experts == 0) return router;
  router.k = config.experts_per_token;
  router.renormalise = config.renormalise;
  router.base_always = config.block == Block::kPostNorm;  // FlexOlmo
  return router;
}

Decoder::Decoder(ModelConfig config, ModelWeights weights, Router router)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      router_(std::move(router)),
      rope_frequencies_(RopeFrequencies(config_)) {}

absl::StatusOr<Decoder> Decoder::Create(const ModelConfig& config,
                                        ModelWeights weights, Router router) {
  MOTET_RETURN_IF_ERROR(CheckConfig(config));
  if (config.tied_head && weights.head.empty()) weights.head = weights.embed;
  MOTET_RETURN_IF_ERROR(CheckWeights(config, weights));
  MOTET_RETURN_IF_ERROR(CheckRouter(config, router));
  return Decoder(config, std::move(weights), std::move(router));
}

}  // namespace motet::model
