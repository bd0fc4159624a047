// SPDX-License-Identifier: Apache-2.0
// The families of decoders, once: what transformers calls each, which choices
// it makes, and where its config.json and its weights differ from the others.
// Reading, writing and naming look here; the decoder itself never does.
#pragma once

#include <span>

#include "compose/model/config.h"

namespace motet::model {

struct FamilyInfo {
  Family family;
  const char* architecture;
  const char* model_type;
  Block block;
  QkNorm qk_norm;
  bool qkv_bias;
  const char* experts_key;  // null: dense
  const char* width_key;    // of an expert's FFN, or of the dense one
  // Whether the weights of the chosen experts are divided by their sum.
  enum class Renormalise { kNever, kAlways, kSays } renormalise;
  // kPlain: sliding_window alone. kLayers: use_sliding_window, from layer
  // max_window_layers on. kSwitch: use_sliding_window, in every layer.
  enum class Window { kNone, kPlain, kLayers, kSwitch } window;
  // What transformers takes when the field is absent is a function of the
  // other fields (num_attention_heads; hidden_size / num_attention_heads), not
  // a constant of its own.
  bool kv_heads_follow;
  bool head_dim_follows;
  unsigned bit() const { return 1u << static_cast<unsigned>(family); }
};

std::span<const FamilyInfo> Families();
// The family that config.family names if it makes these choices, else the
// first that does; null when none does.
const FamilyInfo* FamilyOf(const ModelConfig& config);

}  // namespace motet::model
