// SPDX-License-Identifier: Apache-2.0
// The rules a decoder's sizes obey. They hold for what is read from files
// (config_json.cc) and for what a program puts together alike.
#include "compose/model/config.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/math/operators.h"
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
void CheckRope(const RopeScaling& rope, std::vector<std::string>& reasons) {
  if (rope.original_positions == 0) return;
  if (rope.original_positions < 1 ||
      rope.original_positions > int64_t{1} << 27) {
    reasons.push_back(absl::StrCat("original_max_position_embeddings = ",
                                   rope.original_positions,
                                   " (want 1 to 134217728)"));
  }
  if (!(rope.factor >= 1 && rope.factor <= 1e6)) {
    reasons.push_back(
        absl::StrCat("rope factor = ", rope.factor, " (want 1 to 1e6)"));
  }
  if (!(rope.low_factor > 0 && rope.low_factor < rope.high_factor &&
        rope.high_factor <= 1e6)) {
    reasons.push_back(absl::StrCat(
        "low_freq_factor = ", rope.low_factor, ", high_freq_factor = ",
        rope.high_factor, " (want 0 < low < high)"));
  }
}


}  // namespace

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
  CheckRope(config.rope_scaling, reasons);
  if (config.window < 0 || config.window_from < 0 ||
      config.window_from > kBounds[2].most) {
    reasons.push_back(absl::StrCat("sliding_window = ", config.window,
                                   " from layer ", config.window_from,
                                   " (want 0 or more)"));
  }
  if (config.experts < 0 || config.experts > math::kMaxExperts) {
    reasons.push_back(absl::StrCat("num_experts = ", config.experts,
                                   " (want 0 to ", math::kMaxExperts, ")"));
  } else if (config.experts > 0) {
    if (config.experts_per_token < 1 ||
        config.experts_per_token > config.experts) {
      reasons.push_back(
          absl::StrCat("num_experts_per_tok = ", config.experts_per_token,
                       " (want 1 to num_experts = ", config.experts, ")"));
    }
  }
  if (config.attention_experts != AttentionExperts::kNone &&
      config.experts == 0) {
    reasons.push_back("attention experts of a dense model (want a mixture)");
  }
  const struct {
    const char* name;
    int32_t id;
  } ids[] = {{"bos_token_id", config.bos_id},
             {"eos_token_id", config.eos_id},
             {"pad_token_id", config.pad_id}};
  for (const int32_t id : config.more_eos_ids) {
    if (config.eos_id >= 0 && id >= 0 && id < config.vocabulary) continue;
    reasons.push_back(absl::StrCat("eos_token_id also ", id,
                                   " (want ids below vocab_size = ",
                                   config.vocabulary, ")"));
  }
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
