// SPDX-License-Identifier: Apache-2.0
#include "compose/model/encoder_weights.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using math::Shape;
using math::Tensor;

constexpr absl::string_view kMapNames[kEncoderMaps] = {
    "attention.self.query",   "attention.self.key", "attention.self.value",
    "attention.output.dense", "intermediate.dense", "output.dense",
};

// Outputs and inputs of a map.
std::pair<int64_t, int64_t> Sizes(const EncoderConfig& config, size_t map) {
  const auto m = static_cast<EncoderMap>(map);
  return {m == EncoderMap::kIntermediate ? config.ffn_width : config.width,
          m == EncoderMap::kOutput ? config.ffn_width : config.width};
}

std::string MapName(int64_t layer, size_t map) {
  return absl::StrCat("encoder.layer.", layer, ".", kMapNames[map]);
}

bool IsTarget(const std::string& name, const std::string& target) {
  return name == target || absl::EndsWith(name, absl::StrCat(".", target));
}

void VisitNorm(const EncoderConfig& config, const std::string& name,
               NormWeights& norm, const EncoderVisit& visit) {
  visit(name + ".weight", {config.width}, norm.weight);
  visit(name + ".bias", {config.width}, norm.bias);
}

// Appends what is wrong with one tensor.
void Complain(const std::string& name, const Shape& shape, const Tensor& tensor,
              std::vector<std::string>& reasons) {
  if (tensor.empty()) {
    reasons.push_back(absl::StrCat(name, " absent"));
  } else if (!(tensor.shape == shape) || tensor.dtype != math::DType::kF32) {
    reasons.push_back(absl::StrCat(name, " is ", math::Name(tensor.dtype), " ",
                                   tensor.shape.ToString(), " (want F32 ",
                                   shape.ToString(), ")"));
  }
}

}  // namespace

absl::string_view Name(EncoderMap map) {
  return kMapNames[static_cast<size_t>(map)];
}

void VisitEncoderWeights(const EncoderConfig& config, EncoderWeights& w,
                         const EncoderVisit& visit) {
  w.layers.resize(config.layers);
  const int64_t width = config.width;
  visit("embeddings.word_embeddings.weight", {config.vocabulary, width},
        w.words);
  visit("embeddings.position_embeddings.weight", {config.max_positions, width},
        w.positions);
  visit("embeddings.token_type_embeddings.weight", {config.token_types, width},
        w.types);
  VisitNorm(config, "embeddings.LayerNorm", w.embedding_norm, visit);
  for (int64_t l = 0; l < config.layers; ++l) {
    EncoderLayerWeights& layer = w.layers[l];
    for (size_t map = 0; map < kEncoderMaps; ++map) {
      const auto [outputs, inputs] = Sizes(config, map);
      const std::string name = MapName(l, map);
      visit(name + ".weight", {outputs, inputs}, layer.maps[map].weight);
      visit(name + ".bias", {outputs}, layer.maps[map].bias);
      // The norm that follows the map.
      const std::string prefix = absl::StrCat("encoder.layer.", l);
      if (map == static_cast<size_t>(EncoderMap::kAttentionOutput)) {
        VisitNorm(config, prefix + ".attention.output.LayerNorm",
                  layer.attention_norm, visit);
      }
      if (map == static_cast<size_t>(EncoderMap::kOutput)) {
        VisitNorm(config, prefix + ".output.LayerNorm", layer.output_norm,
                  visit);
      }
    }
  }
}

absl::Status CheckEncoderWeights(const EncoderConfig& config,
                                 const EncoderWeights& w) {
  std::vector<std::string> reasons;
  if (static_cast<int64_t>(w.layers.size()) != config.layers) {
    reasons.push_back(
        absl::StrCat(w.layers.size(), " layers (want ", config.layers, ")"));
  } else {
    EncoderWeights views = w;
    VisitEncoderWeights(
        config, views,
        [&](const std::string& name, const Shape& shape, Tensor& tensor) {
          Complain(name, shape, tensor, reasons);
        });
  }
  if (reasons.empty()) return absl::OkStatus();
  return proto::Invalid("encoder weights", absl::StrJoin(reasons, ", "),
                        "the tensors of a BertModel",
                        "check that config and weights belong together");
}

void VisitLora(const EncoderConfig& config, Lora& lora,
               const EncoderVisit& visit) {
  lora.layers.resize(config.layers);
  for (int64_t l = 0; l < config.layers; ++l) {
    for (size_t map = 0; map < kEncoderMaps; ++map) {
      const std::string name = MapName(l, map);
      bool adapted = false;
      for (const std::string& target : lora.config.targets) {
        adapted = adapted || IsTarget(name, target);
      }
      if (!adapted) continue;
      const auto [outputs, inputs] = Sizes(config, map);
      LoraPair& pair = lora.layers[l][map];
      visit(name + ".lora_A.weight", {lora.config.rank, inputs}, pair.a);
      visit(name + ".lora_B.weight", {outputs, lora.config.rank}, pair.b);
    }
  }
}

absl::Status CheckLoraConfig(const EncoderConfig& config,
                             const LoraConfig& lora) {
  std::vector<std::string> reasons;
  if (lora.rank < 1 || lora.rank > config.width) {
    reasons.push_back(absl::StrCat("r = ", lora.rank, " (want 1 to ",
                                   config.width, ", the encoder's width)"));
  }
  if (!(lora.alpha > 0 && lora.alpha < 1e6)) {
    reasons.push_back(absl::StrCat("lora_alpha = ", lora.alpha,
                                   " (want more than 0, less than 1e6)"));
  }
  if (!(lora.dropout >= 0 && lora.dropout < 1)) {
    reasons.push_back(absl::StrCat("lora_dropout = ", lora.dropout,
                                   " (want 0 to less than 1)"));
  }
  if (lora.targets.empty()) reasons.push_back("no target_modules");
  for (const std::string& target : lora.targets) {
    bool found = false;
    for (int64_t l = 0; l < config.layers && !found; ++l) {
      for (size_t map = 0; map < kEncoderMaps; ++map) {
        found = found || IsTarget(MapName(l, map), target);
      }
    }
    if (!found) {
      reasons.push_back(absl::StrCat("target module \"", target,
                                     "\" (want a map of the encoder, such as "
                                     "query, key, value or dense)"));
    }
  }
  if (reasons.empty()) return absl::OkStatus();
  return proto::Invalid("LoRA config", absl::StrJoin(reasons, ", "),
                        "an adapter of this encoder",
                        "check that adapter and base belong together");
}

absl::Status CheckLora(const EncoderConfig& config, const Lora& lora) {
  MOTET_RETURN_IF_ERROR(CheckLoraConfig(config, lora.config));
  std::vector<std::string> reasons;
  if (static_cast<int64_t>(lora.layers.size()) != config.layers) {
    reasons.push_back(
        absl::StrCat(lora.layers.size(), " layers (want ", config.layers, ")"));
  } else {
    Lora views = lora;
    VisitLora(config, views,
              [&](const std::string& name, const Shape& shape, Tensor& tensor) {
                Complain(name, shape, tensor, reasons);
              });
  }
  if (reasons.empty()) return absl::OkStatus();
  return proto::Invalid("LoRA", absl::StrJoin(reasons, ", "),
                        "the tensors of an adapter of this encoder",
                        "check that adapter and base belong together");
}

}  // namespace motet::model
