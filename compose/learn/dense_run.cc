// SPDX-License-Identifier: Apache-2.0
// Models that own their numbers, and the run that trains a dense one from
// nothing.
#include <cmath>
#include <map>
#include <utility>

#include "compose/learn/hash.h"
#include "compose/learn/loop.h"
#include "compose/learn/trainer.h"
#include "proto/error.h"

namespace motet::learn {
namespace {

using math::DType;
using math::Tensor;

constexpr double kInitialDeviation = 0.02;

bool EndsWith(const std::string& text, absl::string_view end) {
  return text.size() >= end.size() &&
         text.compare(text.size() - end.size(), end.size(), end.data(),
                      end.size()) == 0;
}

// Whether a product's result goes into the residual stream.
bool IsOutputProjection(const std::string& name) {
  return EndsWith(name, "o_proj.weight") ||
         EndsWith(name, "down_proj.weight") || EndsWith(name, ".w2.weight");
}

// A model of the config's shapes, numbers not yet set. fill is called for
// every tensor.
OwnedModel Allocate(
    const model::ModelConfig& config,
    const std::function<void(const std::string&, Tensor&)>& fill) {
  OwnedModel owned;
  owned.config = config;
  VisitWeights(config, owned.weights,
               [&](const std::string& name, const math::Shape& shape,
                   Tensor& tensor) {
                 owned.storage.push_back(std::make_unique<float[]>(
                     static_cast<size_t>(shape.size())));
                 tensor = Tensor{};
                 tensor.data = owned.storage.back().get();
                 tensor.shape = shape;
                 fill(name, tensor);
               });
  if (config.tied_head) owned.weights.head = owned.weights.embed;
  return owned;
}

}  // namespace

void Widen(const Tensor& from, Tensor to) {
  MOTET_CHECK(from.size() == to.size() && to.dtype == DType::kF32);
  const int64_t n = from.size();
  const uint16_t* bits = from.bf16();
  for (int64_t i = 0; i < n; ++i) {
    switch (from.dtype) {
      case DType::kF32: to.f32()[i] = from.f32()[i]; break;
      case DType::kBF16: to.f32()[i] = math::WidenBf16(bits[i]); break;
      case DType::kF16: to.f32()[i] = math::WidenF16(bits[i]); break;
      default: MOTET_CHECK(false);
    }
  }
}

OwnedModel InitialModel(const model::ModelConfig& config, uint64_t seed) {
  const double output_deviation =
      kInitialDeviation / std::sqrt(2.0 * static_cast<double>(config.layers));
  return Allocate(config, [&](const std::string& name, Tensor& tensor) {
    const int64_t n = tensor.size();
    float* data = tensor.f32();
    if (tensor.shape.rank < 2) {
      std::fill(data, data + n, 1.0f);
      return;
    }
    const double deviation =
        IsOutputProjection(name) ? output_deviation : kInitialDeviation;
    const uint64_t stream = Mix(seed ^ Fnv1a(name));
#pragma omp parallel for
    for (int64_t i = 0; i < n; ++i) {
      data[i] = static_cast<float>(
          deviation * Normal(stream, static_cast<uint64_t>(i)));
    }
  });
}

OwnedModel CopyModel(const model::ModelConfig& config,
                     const model::ModelWeights& weights) {
  std::map<std::string, Tensor> from;
  model::ModelWeights views = weights;
  VisitWeights(config, views,
               [&](const std::string& name, const math::Shape&,
                   Tensor& tensor) { from[name] = tensor; });
  return Allocate(config, [&](const std::string& name, Tensor& tensor) {
    Widen(from.at(name), tensor);
  });
}

std::vector<Parameter> DenseParameters(OwnedModel& model) {
  std::vector<Parameter> parameters;
  VisitWeights(model.config, model.weights,
               [&](const std::string& name, const math::Shape& shape,
                   Tensor& tensor) {
                 parameters.push_back({name, tensor, tensor, shape.rank >= 2});
               });
  return parameters;
}

absl::StatusOr<TrainResult> TrainDense(OwnedModel& model,
                                       const TokenWindows& windows,
                                       const TrainOptions& options,
                                       const OnProgress& progress,
                                       const TokenWindows* held_out) {
  MOTET_RETURN_IF_ERROR(
      CheckRun("the base", options, model.config, windows, nullptr, held_out));
  model::Router router;
  router.k = std::max<int64_t>(1, model.config.experts_per_token);
  router.renormalise = model.config.renormalise;
  MOTET_ASSIGN_OR_RETURN(
      model::Decoder decoder,
      model::Decoder::Create(model.config, model.weights, router));
  Run run;
  run.name = "the base";
  run.decoder = &decoder;
  run.parameters = DenseParameters(model);
  run.own = &windows;
  run.held_out = held_out;
  return RunTraining(std::move(run), options, progress);
}

}  // namespace motet::learn
