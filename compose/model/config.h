// SPDX-License-Identifier: Apache-2.0
// What a decoder is: sizes and choices, read from and written to a Hugging
// Face config.json. A field that would change the mathematics and that we do
// not know is an error which names it; nothing is guessed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace motet::model {

enum class Block {
  kPreNorm,   // Llama: x + attn(norm(x)), h + ffn(norm(h))
  kPostNorm,  // OLMo-2: x + norm(attn(x)), h + norm(ffn(h))
  kParallel,  // BAM: h = norm(x), x + attn(h) + ffn(h)
};
// RMSNorm of the projected q and k, before RoPE.
enum class QkNorm {
  kNone,
  kWhole,    // OLMo-2: over all heads together
  kPerHead,  // Qwen3: over each head, one weight of D for all
};
// What of attention each of a mixture's experts has for itself (METHODS 3).
enum class AttentionExperts : uint8_t {
  kNone,      // one attention for all
  kOwnKv,     // q, k, v and o: a KV cache an expert
  kSharedKv,  // q and o; one k and v, one KV cache
};
// docs/models.md; config_family.h has the table.
enum class Family : uint8_t {
  kAny,
  kLlama,
  kMistral,
  kQwen2,
  kQwen3,
  kOlmo2,
  kMixtral,
  kOlmoe,
  kQwen3Moe,
  kFlexOlmo,
};

// The `llama3` scaling of RoPE's frequencies: pairs that turn slower than once
// in original_positions / low_factor positions are slowed by `factor`, those
// faster than high_factor keep their pace, between them it is blended.
struct RopeScaling {
  double factor = 1;
  double low_factor = 1;
  double high_factor = 4;
  int64_t original_positions = 0;  // 0 = not scaled
  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  // Which name to export under where several families make these choices
  // (a Mistral without a window is a Llama). Changes nothing else.
  Family family = Family::kAny;
  Block block = Block::kPostNorm;
  QkNorm qk_norm = QkNorm::kWhole;
  bool qkv_bias = false;   // q, k and v have a bias
  int64_t window = 0;      // positions a row sees, its own included; 0 = all
  int64_t window_from = 0;  // the first layer with the window
  int64_t vocabulary = 0;  // V
  int64_t width = 0;       // C
  int64_t layers = 0;      // L
  int64_t heads = 0;       // H
  int64_t kv_heads = 0;    // G
  int64_t head_dim = 0;    // D
  int64_t ffn_width = 0;   // F
  int64_t max_positions = 0;
  float norm_eps = 1e-6f;
  double rope_theta = 5e5;
  RopeScaling rope_scaling;
  bool tied_head = false;
  int64_t experts = 0;                            // E; 0 = dense FFN
  int64_t experts_per_token = 0;                  // K
  bool renormalise = false;                       // top-k weights sum to 1
  AttentionExperts attention_experts = AttentionExperts::kNone;  // E of them
  int32_t bos_id = -1, eos_id = -1, pad_id = -1;  // -1 = none
  std::vector<int32_t> more_eos_ids;              // also end a text

  bool Ends(int32_t id) const {
    return id == eos_id || std::ranges::count(more_eos_ids, id) > 0;
  }
  bool operator==(const ModelConfig&) const = default;
};

// Radians a position for each of the D / 2 pairs of a head.
std::vector<double> RopeFrequencies(const ModelConfig& config);

// What transformers calls such a model; null when it has no name for it.
const char* Architecture(const ModelConfig& config);
// OK when it has one; otherwise says which choices do not go together there.
absl::Status CheckExport(const ModelConfig& config);

// Reads a config.json of one of the families. InvalidArgument names every field
// that does not fit, with its value; a config that comes back has passed
// CheckConfig.
absl::StatusOr<ModelConfig> ParseConfig(const std::string& json);
// config.json that stock transformers loads; every field explicit but dtype
// ("float32", "bfloat16", "float16"), which is left out where not given.
// config has passed CheckConfig and CheckExport.
std::string WriteConfig(const ModelConfig& config,
                        const std::string& dtype = "");
// OK when the shapes make sense; otherwise every reason in one error.
absl::Status CheckConfig(const ModelConfig& config);

}  // namespace motet::model
