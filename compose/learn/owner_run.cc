// SPDX-License-Identifier: Apache-2.0
// FlexOlmo's owner run (METHODS 1): the base's FFN, frozen, is expert 0; a
// copy of it is expert 1. Trained are that copy, the owner's router row and
// the owner's bias; everything else belongs to the base and is only read.
// Alone (METHODS 11, "switch"), the copy stands in the FFN's place and is all
// that is trained.
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/hash.h"
#include "compose/learn/loop.h"
#include "compose/learn/statistics.h"
#include "compose/learn/trainer.h"
#include "proto/error.h"

namespace motet::learn {
namespace {

using math::Tensor;

// The rows' starting direction needs no more text than this.
constexpr int64_t kRowTokens = 8192;

Tensor NewTensor(OwnerExpert& expert, const math::Shape& shape) {
  expert.storage.push_back(
      std::make_unique<float[]>(static_cast<size_t>(shape.size())));
  Tensor t;
  t.data = expert.storage.back().get();
  t.shape = shape;
  return t;
}

// The direction scaled to norm `norm`; zeros where there is none.
void FillRow(const std::vector<double>& direction, double norm, Tensor row) {
  double square = 0;
  for (const double x : direction) square += x * x;
  const double scale = square > 0 ? norm / std::sqrt(square) : 0;
  for (size_t c = 0; c < direction.size(); ++c) {
    row.f32()[c] = static_cast<float>(scale * direction[c]);
  }
}

// Of every layer's own row: own mean - public mean of the base's router
// inputs, or what the options bring.
absl::StatusOr<std::vector<std::vector<double>>> RowDirections(
    const package::LoadedModel& base, const TokenWindows& own,
    const TokenWindows& public_text, const OwnerOptions& options) {
  if (!options.row_direction.empty()) {
    return std::vector<std::vector<double>>(base.weights.layers.size(),
                                            options.row_direction);
  }
  MOTET_ASSIGN_OR_RETURN(model::Decoder decoder, BaseDecoder(base));
  MOTET_ASSIGN_OR_RETURN(auto mean, MeanRouterInputs(decoder, own, kRowTokens));
  if (public_text.count() > 0 && !options.alone) {
    MOTET_ASSIGN_OR_RETURN(const auto other,
                           MeanRouterInputs(decoder, public_text, kRowTokens));
    for (size_t l = 0; l < mean.size(); ++l) {
      for (size_t c = 0; c < mean[l].size(); ++c) mean[l][c] -= other[l][c];
    }
  }
  return mean;
}

absl::StatusOr<OwnerExpert> StartExpert(const package::LoadedModel& base,
                                        const TokenWindows& own,
                                        const TokenWindows& public_text,
                                        const OwnerOptions& options) {
  MOTET_ASSIGN_OR_RETURN(const auto directions,
                         RowDirections(base, own, public_text, options));
  OwnerExpert expert = NewOwnerExpert(base);
  for (size_t l = 0; l < expert.layers.size(); ++l) {
    const model::FfnWeights& from = base.weights.layers[l].experts[0];
    OwnerExpert::Layer& to = expert.layers[l];
    Widen(from.gate, to.ffn.gate);
    Widen(from.up, to.ffn.up);
    Widen(from.down, to.ffn.down);
    FillRow(directions[l], options.alone ? 1.0 : options.row_norm, to.row);
  }
  return expert;
}

absl::Status CheckLayers(const package::LoadedModel& base,
                         const OwnerExpert& expert) {
  if (expert.layers.size() == base.weights.layers.size()) {
    return absl::OkStatus();
  }
  return proto::Invalid("pair of base and expert",
                        absl::StrCat(expert.layers.size(), " layers"),
                        absl::StrCat(base.weights.layers.size()),
                        "use the base that the expert was trained on");
}

}  // namespace

absl::StatusOr<model::Decoder> BaseDecoder(const package::LoadedModel& base) {
  model::Router router;
  router.k = std::max<int64_t>(1, base.config.experts_per_token);
  router.renormalise = base.config.renormalise;
  return model::Decoder::Create(base.config, base.weights, router);
}

OwnerExpert NewOwnerExpert(const package::LoadedModel& base) {
  OwnerExpert expert;
  const int64_t width = base.config.width;
  for (const model::LayerWeights& from : base.weights.layers) {
    const int64_t ffn = from.experts[0].gate.rows();
    OwnerExpert::Layer layer;
    layer.ffn.gate = NewTensor(expert, {ffn, width});
    layer.ffn.up = NewTensor(expert, {ffn, width});
    layer.ffn.down = NewTensor(expert, {width, ffn});
    layer.router = NewTensor(expert, {2, width});
    if (!from.router.empty()) {
      Widen(from.router.RowSlice(0, 1), layer.router.RowSlice(0, 1));
    }
    layer.row = layer.router.RowSlice(1, 1).Reshaped({width});
    layer.bias = NewTensor(expert, {1});
    expert.layers.push_back(layer);
  }
  return expert;
}

std::vector<Parameter> OwnerParameters(OwnerExpert& expert, bool alone,
                                       bool bias) {
  std::vector<Parameter> parameters;
  for (size_t l = 0; l < expert.layers.size(); ++l) {
    OwnerExpert::Layer& layer = expert.layers[l];
    const auto add = [&](const char* name, const Tensor& value,
                         const Tensor& watched, bool decay) {
      parameters.push_back(
          {absl::StrCat("layers.", l, ".", name), value, watched, decay});
    };
    add("mlp.gate_proj.weight", layer.ffn.gate, layer.ffn.gate, true);
    add("mlp.up_proj.weight", layer.ffn.up, layer.ffn.up, true);
    add("mlp.down_proj.weight", layer.ffn.down, layer.ffn.down, true);
    if (alone) continue;
    // A row of a matrix of two dimensions: it decays like the matrix would.
    add("router.row", layer.row, layer.router, true);
    if (bias) add("router.bias", layer.bias, layer.bias, false);
  }
  return parameters;
}

absl::StatusOr<model::Decoder> PairDecoder(const package::LoadedModel& base,
                                           const OwnerExpert& expert) {
  MOTET_RETURN_IF_ERROR(CheckLayers(base, expert));
  model::ModelConfig config = base.config;
  config.experts = 2;
  config.experts_per_token = 2;
  // Behind a norm a positive factor cancels; where no norm follows, only
  // weights that sum to 1 leave identical experts the dense model.
  config.renormalise = config.block != model::Block::kPostNorm;
  model::ModelWeights weights = base.weights;
  for (size_t l = 0; l < expert.layers.size(); ++l) {
    model::LayerWeights& layer = weights.layers[l];
    layer.experts = {layer.experts[0], expert.layers[l].ffn};
    layer.router = expert.layers[l].router;
    layer.owner_bias = expert.layers[l].bias;
  }
  model::Router router;
  router.k = 2;
  router.renormalise = config.renormalise;
  return model::Decoder::Create(config, std::move(weights), router);
}

absl::StatusOr<model::Decoder> AloneDecoder(const package::LoadedModel& base,
                                            const OwnerExpert& expert) {
  MOTET_RETURN_IF_ERROR(CheckLayers(base, expert));
  model::ModelConfig config = base.config;
  config.experts = config.experts_per_token = 0;
  model::ModelWeights weights = base.weights;
  for (size_t l = 0; l < expert.layers.size(); ++l) {
    weights.layers[l].experts = {expert.layers[l].ffn};
    weights.layers[l].router = Tensor{};
  }
  return model::Decoder::Create(config, std::move(weights), model::Router{});
}

absl::StatusOr<OwnerExpert> TrainOwner(const package::LoadedModel& base,
                                       const TokenWindows& own,
                                       const TokenWindows& public_text,
                                       const OwnerOptions& options,
                                       const OnProgress& progress,
                                       TrainResult* result,
                                       const TokenWindows* held_out) {
  MOTET_RETURN_IF_ERROR(CheckRun("the owner's expert", options, base.config,
                                 own, &public_text, held_out));
  const auto width = static_cast<size_t>(base.config.width);
  if (!options.row_direction.empty() &&
      (options.alone || options.row_direction.size() != width)) {
    return proto::Invalid(
        "the owner's expert",
        absl::StrCat("a row's direction of ", options.row_direction.size(),
                     " numbers", options.alone ? " for one alone" : ""),
        absl::StrCat(width, " beside the base"), "train it without one");
  }
  MOTET_ASSIGN_OR_RETURN(OwnerExpert expert,
                         StartExpert(base, own, public_text, options));
  MOTET_ASSIGN_OR_RETURN(model::Decoder decoder,
                         options.alone ? AloneDecoder(base, expert)
                                       : PairDecoder(base, expert));
  Run run;
  run.name = "the owner's expert";
  run.decoder = &decoder;
  run.parameters = OwnerParameters(expert, options.alone, options.bias);
  run.own = &own;
  run.public_text = &public_text;
  run.held_out = held_out;
  run.description = {
      absl::StrCat("row_norm = ", options.row_norm),
      BaseLine(base),
  };
  // Only where used, so that a checkpoint of old still fits.
  if (options.alone) run.description.push_back("alone = true");
  if (!options.bias) run.description.push_back("bias = false");
  if (!options.row_direction.empty()) {
    Fingerprint print;
    print.Add(
        options.row_direction.data(),
        static_cast<int64_t>(options.row_direction.size() * sizeof(double)));
    run.description.push_back("row_direction = " + print.Hex());
  }
  MOTET_ASSIGN_OR_RETURN(TrainResult trained,
                         RunTraining(std::move(run), options, progress));
  if (result != nullptr) *result = std::move(trained);
  return expert;
}

}  // namespace motet::learn
