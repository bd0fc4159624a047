// SPDX-License-Identifier: Apache-2.0
// The weights table of an encoder: every tensor once, with its Hugging Face
// name and shape; and of a LoRA adapter on it, with its PEFT name. Import,
// export, training and counting walk these lists.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "compose/math/tensor.h"
#include "compose/model/encoder_config.h"

namespace motet::model {

struct Affine {
  math::Tensor weight;  // [N,C]
  math::Tensor bias;    // [N]
};
struct NormWeights {
  math::Tensor weight;  // [C]
  math::Tensor bias;    // [C]
};

// The affine maps of a layer, in the order of the data.
enum class EncoderMap : uint8_t {
  kQuery,
  kKey,
  kValue,
  kAttentionOutput,
  kIntermediate,  // [F,C]
  kOutput,        // [C,F]
};
inline constexpr size_t kEncoderMaps = 6;
// The name within a layer: "attention.self.query", ...
absl::string_view Name(EncoderMap map);

struct EncoderLayerWeights {
  std::array<Affine, kEncoderMaps> maps;
  NormWeights attention_norm, output_norm;
  const Affine& operator[](EncoderMap map) const {
    return maps[static_cast<size_t>(map)];
  }
};
struct EncoderWeights {
  math::Tensor words;      // [V,C]
  math::Tensor positions;  // [max_positions,C]
  math::Tensor types;      // [token_types,C]
  NormWeights embedding_norm;
  std::vector<EncoderLayerWeights> layers;
};

using EncoderVisit = std::function<void(
    const std::string& name, const math::Shape& shape, math::Tensor& tensor)>;
// Makes w.layers as long as config says and calls visit for every tensor of
// a BertModel's file, without a prefix, in the order of the data.
void VisitEncoderWeights(const EncoderConfig& config, EncoderWeights& w,
                         const EncoderVisit& visit);
// OK when every tensor is there, f32, in its shape; otherwise
// InvalidArgument lists every one that is not.
absl::Status CheckEncoderWeights(const EncoderConfig& config,
                                 const EncoderWeights& w);

// A low-rank addition to a map: y += scale B (A x).   [arXiv 2106.09685]
struct LoraPair {
  math::Tensor a;  // [r,C]; empty where the map is not adapted
  math::Tensor b;  // [N,r]
};
struct LoraConfig {
  int64_t rank = 8;    // r
  double alpha = 32;   // scale = alpha / r
  double dropout = 0;  // of the adapter's input, in training
  // As PEFT has them: a map is adapted when its name within the model is one
  // of these or ends with a dot and one of these.
  std::vector<std::string> targets = {"query", "value"};
};
struct Lora {
  LoraConfig config;
  std::vector<std::array<LoraPair, kEncoderMaps>> layers;
  float scale() const {
    return static_cast<float>(config.alpha / static_cast<double>(config.rank));
  }
  const LoraPair& At(size_t layer, EncoderMap map) const {
    return layers[layer][static_cast<size_t>(map)];
  }
};
// As VisitEncoderWeights, for the A and B of every adapted map; names are
// the map's own with ".lora_A.weight" and ".lora_B.weight" behind.
void VisitLora(const EncoderConfig& config, Lora& lora,
               const EncoderVisit& visit);
// OK when rank, alpha and targets make sense on this encoder and every
// tensor is there, f32, in its shape.
absl::Status CheckLora(const EncoderConfig& config, const Lora& lora);
absl::Status CheckLoraConfig(const EncoderConfig& config,
                             const LoraConfig& lora);

}  // namespace motet::model
