// SPDX-License-Identifier: Apache-2.0
// The rules a decoder's sizes obey. They hold for what is read from files
// (config_json.cc) and for what a program puts together alike.
#include "compose/model/config.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"

namespace motet::model {
namespace {

// Bounds far above any model that runs on one machine: they keep products of
// sizes from a stranger's file inside int64.
struct Bound {
  const char* name;
  int64_t ModelConfig::*field;
  int64_t most;
};
constexpr Bound kBounds[] = {
    {"vocab_size", &ModelConfig::vocabulary, int64_t{1} << 22},
    {"hidden_size", &ModelConfig::width, int64_t{1} << 17},
    {"num_hidden_layers", &ModelConfig::layers, 1024},
    {"num_attention_heads", &ModelConfig::heads, 4096},
    {"num_key_value_heads", &ModelConfig::kv_heads, 4096},
    {"head_dim", &ModelConfig::head_dim, 4096},
    {"intermediate_size", &ModelConfig::ffn_width, int64_t{1} << 20},
    {"max_position_embeddings", &ModelConfig::max_positions, int64_t{1} << 27},
};
constexpr int64_t kMaxExperts = 64;  // the bits of an ExpertMask

}  // namespace

const char* Architecture(const ModelConfig& config) {
  if (config.block == Block::kPreNorm) {
    return config.experts == 0 ? "LlamaForCausalLM" : "MixtralForCausalLM";
  }
  return config.experts == 0 ? "Olmo2ForCausalLM" : "FlexOlmoForCausalLM";
}

std::vector<double> RopeFrequencies(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  const double original = static_cast<double>(scaling.original_positions);
  std::vector<double> frequencies;
  for (int64_t i = 0; i < config.head_dim / 2; ++i) {
    double f = std::pow(config.rope_theta,
                        -2.0 * static_cast<double>(i) / config.head_dim);
    if (scaling.original_positions > 0) {
      // Turns in the original positions decide.
      const double turns = original * f / (2 * std::numbers::pi);
      const double share =
          std::clamp((turns - scaling.low_factor) /
                         (scaling.high_factor - scaling.low_factor),
                     0.0, 1.0);
      f = (1 - share) * f / scaling.factor + share * f;
    }
    frequencies.push_back(f);
  }
  return frequencies;
}

absl::Status CheckConfig(const ModelConfig& config) {
  std::vector<std::string> reasons;
  for (const Bound& bound : kBounds) {
    const int64_t value = config.*bound.field;
    if (value < 1 || value > bound.most) {
      reasons.push_back(absl::StrCat(bound.name, " = ", value, " (want 1 to ",
                                     bound.most, ")"));
    }
  }
  if (reasons.empty()) {
    if (config.heads % config.kv_heads != 0) {
      reasons.push_back(absl::StrCat(
          "num_key_value_heads = ", config.kv_heads,
          " (want a divisor of num_attention_heads = ", config.heads, ")"));
    }
    if (config.head_dim % 2 != 0) {
      reasons.push_back(absl::StrCat("head_dim = ", config.head_dim,
                                     " (want an even number: RoPE turns "
                                     "pairs)"));
    }
  }
  if (!(config.norm_eps > 0 && config.norm_eps < 1)) {
    reasons.push_back(absl::StrCat("rms_norm_eps = ", config.norm_eps,
                                   " (want more than 0, less than 1)"));
  }
  if (!(config.rope_theta >= 1 && config.rope_theta <= 1e12)) {
    reasons.push_back(
        absl::StrCat("rope_theta = ", config.rope_theta, " (want 1 to 1e12)"));
  }
  if (config.experts < 0 || config.experts > kMaxExperts) {
    reasons.push_back(absl::StrCat("num_experts = ", config.experts,
                                   " (want 0 to ", kMaxExperts, ")"));
  } else if (config.experts > 0) {
    if (config.experts_per_token < 1 ||
        config.experts_per_token > config.experts) {
      reasons.push_back(
          absl::StrCat("num_experts_per_tok = ", config.experts_per_token,
                       " (want 1 to num_experts = ", config.experts, ")"));
    }
    if (config.block == Block::kPreNorm && !config.renormalise) {
      reasons.push_back(
          "norm_topk_prob = false (want true on a pre-norm block, where the "
          "size of the FFN's output matters)");
    }
  }
  const struct {
    const char* name;
    int32_t id;
  } ids[] = {{"bos_token_id", config.bos_id},
             {"eos_token_id", config.eos_id},
             {"pad_token_id", config.pad_id}};
  for (const auto& [name, id] : ids) {
    if (id < -1 || id >= config.vocabulary) {
      reasons.push_back(absl::StrCat(
          name, " = ", id,
          " (want none or less than vocab_size = ", config.vocabulary, ")"));
    }
  }
  if (reasons.empty()) return absl::OkStatus();
  return proto::Invalid("model config", absl::StrJoin(reasons, ", "),
                        "sizes of a decoder that this build runs",
                        "correct the fields named");
}

}  // namespace motet::model
