// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/router_run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/learn/hash.h"
#include "compose/learn/loop.h"
#include "compose/model/mixture.h"
#include "proto/error.h"

namespace motet::learn {
namespace {

using math::Tensor;
using Choice = RouterOptions::Choice;

// Why its rows cannot be tuned; empty when they can.
std::string Obstacle(const model::Decoder& decoder,
                     const RouterOptions& options) {
  const model::ModelConfig& config = decoder.config();
  const model::Router& router = decoder.router();
  if (config.experts == 0) return "a dense model";
  if (router.kind == model::Router::Kind::kAnchored) {
    return "an anchored router";
  }
  if (router.rows != nullptr) return "rows that depend on the expert set";
  const bool top_k = router.kind == model::Router::Kind::kTopK &&
                     options.choice == Choice::kServed;
  if (!top_k && options.k > 0) {
    return absl::StrCat("k = ", options.k, " for a router that is not top-k");
  }
  const int64_t k = options.k > 0 ? options.k : router.k;
  if (top_k && k < 2 && router.null_experts == 0 && !router.shared &&
      (router.renormalise || config.block == model::Block::kPostNorm)) {
    return "top-1 whose weight does not depend on its row";
  }
  return "";
}

// Everything that is read and not trained.
std::string FrozenLine(const model::Decoder& decoder) {
  std::vector<Tensor> tensors;
  model::ModelWeights views = decoder.weights();
  VisitWeights(decoder.config(), views,
               [&](const std::string&, const math::Shape&, Tensor& t) {
                 tensors.push_back(t);
               });
  return DigestLine("mixture", tensors);
}

std::string ChoiceLine(const model::Decoder& decoder,
                       const RouterOptions& options) {
  const model::Router& router = decoder.router();
  switch (options.choice) {
    case Choice::kSwitch:
      return absl::StrFormat("choice = switch, capacity %.17g",
                             options.capacity_factor);
    case Choice::kSample:
      return absl::StrFormat("choice = sample, temperature %.17g to %.17g",
                             options.first_temperature,
                             options.last_temperature);
    case Choice::kServed:
      break;
  }
  return absl::StrFormat(
      "choice = %s%s, k %d, %d nulls, p %.17g, %s",
      router.shared ? "the base and " : "",
      router.kind == model::Router::Kind::kTopP ? "top-p" : "top-k",
      options.k > 0 ? options.k : router.k, router.null_experts, router.top_p,
      router.renormalise ? "renormalised" : "not renormalised");
}

}  // namespace

RouterRows CopyRows(const model::Decoder& decoder) {
  RouterRows rows;
  const auto copy = [&rows](const Tensor& from) {
    rows.storage.push_back(
        std::make_unique<float[]>(static_cast<size_t>(from.size())));
    Tensor to;
    to.data = rows.storage.back().get();
    to.shape = from.shape;
    Widen(from, to);
    return to;
  };
  for (const model::LayerWeights& layer : decoder.weights().layers) {
    rows.ffn.push_back(copy(layer.router));
    if (!layer.attention_router.empty()) {
      rows.attention.push_back(copy(layer.attention_router));
    }
  }
  return rows;
}

absl::StatusOr<model::Decoder> TuningDecoder(
    const model::Decoder& decoder, const RouterRows& rows,
    const RouterOptions& options,
    std::shared_ptr<const model::BtxRouter> draw) {
  model::ModelWeights weights = decoder.weights();
  for (size_t l = 0; l < weights.layers.size(); ++l) {
    weights.layers[l].router = rows.ffn[l];
    if (!rows.attention.empty()) {
      weights.layers[l].attention_router = rows.attention[l];
    }
  }
  model::Router router = decoder.router();
  if (options.k > 0) {
    router.k = options.k;
    router.most_active = 0;
  }
  if (options.choice != Choice::kServed) router.training = std::move(draw);
  return model::Decoder::Create(decoder.config(), std::move(weights),
                                std::move(router));
}

std::vector<Parameter> RouterParameters(const RouterRows& rows) {
  std::vector<Parameter> parameters;
  const auto add = [&](size_t layer, const char* name, const Tensor& t) {
    parameters.push_back({absl::StrCat("layers.", layer, ".", name), t, t,
                          /*decay=*/true});
  };
  for (size_t l = 0; l < rows.ffn.size(); ++l) {
    add(l, "router", rows.ffn[l]);
    if (!rows.attention.empty()) add(l, "attention_router", rows.attention[l]);
  }
  return parameters;
}

absl::StatusOr<RouterRows> TuneRouters(const model::Decoder& decoder,
                                       const TokenWindows& text,
                                       const RouterOptions& options,
                                       const OnProgress& progress,
                                       TrainResult* result) {
  if (const std::string why = Obstacle(decoder, options); !why.empty()) {
    return proto::Invalid("router tuning", why,
                          "a mixture whose rows decide its weights",
                          "choose another router, or k = 2 and more");
  }
  MOTET_RETURN_IF_ERROR(CheckRun("the routers", options, decoder.config(),
                                 text, nullptr, nullptr));
  RouterRows rows = CopyRows(decoder);
  const auto draw = std::make_shared<model::BtxRouter>();
  draw->kind = options.choice == Choice::kSample
                   ? model::BtxRouter::Kind::kSample
                   : model::BtxRouter::Kind::kSwitch;
  draw->capacity_factor = options.capacity_factor;
  MOTET_ASSIGN_OR_RETURN(const model::Decoder tuned,
                         TuningDecoder(decoder, rows, options, draw));
  Run run;
  run.name = "the routers";
  run.decoder = &tuned;
  run.parameters = RouterParameters(rows);
  run.own = &text;
  run.description = {ChoiceLine(decoder, options), FrozenLine(decoder)};
  if (options.choice != Choice::kServed) {
    // A function of seed, step and piece: a resumed run draws the same.
    run.before_piece = [&](int64_t step, int64_t piece) {
      const double done =
          options.steps > 1 ? static_cast<double>(step) /
                                  static_cast<double>(options.steps - 1)
                            : 1.0;
      draw->temperature =
          options.first_temperature +
          done * (options.last_temperature - options.first_temperature);
      draw->seed = Mix(options.seed ^ Mix(static_cast<uint64_t>(step) << 20 ^
                                          static_cast<uint64_t>(piece)));
    };
  }
  MOTET_ASSIGN_OR_RETURN(TrainResult trained,
                         RunTraining(std::move(run), options, progress));
  if (result != nullptr) *result = std::move(trained);
  return rows;
}

}  // namespace motet::learn
