// SPDX-License-Identifier: Apache-2.0
#include "compose/package/branch_check.h"

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace motet::package {
namespace {

const char* Name(model::Block block) {
  return block == model::Block::kPostNorm ? "post-norm" : "pre-norm";
}
const char* Name(model::QkNorm norm) {
  return norm == model::QkNorm::kNone    ? "none"
         : norm == model::QkNorm::kWhole ? "whole"
                                         : "per head";
}
const char* Name(bool value) { return value ? "true" : "false"; }

}  // namespace

std::vector<std::string> DifferentFields(const model::ModelConfig& got,
                                         const model::ModelConfig& base) {
  std::vector<std::string> reasons;
  const auto same = [&](const char* field, const auto& is, const auto& want) {
    if (is == want) return;
    reasons.push_back(absl::StrCat(field, " is ", is, ", want ", want));
  };
  same("block", std::string(Name(got.block)), Name(base.block));
  same("QK norm", std::string(Name(got.qk_norm)), Name(base.qk_norm));
  same("attention bias", std::string(Name(got.qkv_bias)),
       Name(base.qkv_bias));
  same("tied head", std::string(Name(got.tied_head)), Name(base.tied_head));
  same("vocabulary", got.vocabulary, base.vocabulary);
  same("width", got.width, base.width);
  same("layers", got.layers, base.layers);
  same("heads", got.heads, base.heads);
  same("key-value heads", got.kv_heads, base.kv_heads);
  same("head dimension", got.head_dim, base.head_dim);
  same("FFN width", got.ffn_width, base.ffn_width);
  same("experts", got.experts, base.experts);
  same("window", got.window, base.window);
  same("first layer with the window", got.window_from, base.window_from);
  same("norm epsilon", got.norm_eps, base.norm_eps);
  same("RoPE theta", got.rope_theta, base.rope_theta);
  if (!(got.rope_scaling == base.rope_scaling)) {
    reasons.push_back("RoPE scaling differs");
  }
  return reasons;
}

bool SameTokenizer(absl::string_view got_json, absl::string_view base_json) {
  if (got_json == base_json) return true;
  const auto parse = [](absl::string_view text) {
    auto json = nlohmann::json::parse(text.begin(), text.end(), nullptr,
                                      /*allow_exceptions=*/false);
    if (json.is_object()) {
      json.erase("truncation");
      json.erase("padding");
    }
    return json;
  };
  const nlohmann::json got = parse(got_json);
  return got.is_object() && got == parse(base_json);
}

}  // namespace motet::package
