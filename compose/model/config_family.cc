// SPDX-License-Identifier: Apache-2.0
#include "compose/model/config_family.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using Renormalise = FamilyInfo::Renormalise;
using Window = FamilyInfo::Window;

constexpr const char* kWidth = "intermediate_size";
constexpr FamilyInfo kFamilies[] = {
    {Family::kLlama, "LlamaForCausalLM", "llama", Block::kPreNorm,
     QkNorm::kNone, false, nullptr, kWidth, Renormalise::kNever, Window::kNone,
     true, true},
    {Family::kMistral, "MistralForCausalLM", "mistral", Block::kPreNorm,
     QkNorm::kNone, false, nullptr, kWidth, Renormalise::kNever, Window::kPlain,
     false, true},
    {Family::kQwen2, "Qwen2ForCausalLM", "qwen2", Block::kPreNorm,
     QkNorm::kNone, true, nullptr, kWidth, Renormalise::kNever, Window::kLayers,
     false, true},
    {Family::kQwen3, "Qwen3ForCausalLM", "qwen3", Block::kPreNorm,
     QkNorm::kPerHead, false, nullptr, kWidth, Renormalise::kNever,
     Window::kLayers, false, false},
    {Family::kOlmo2, "Olmo2ForCausalLM", "olmo2", Block::kPostNorm,
     QkNorm::kWhole, false, nullptr, kWidth, Renormalise::kNever, Window::kNone,
     true, true},
    {Family::kMixtral, "MixtralForCausalLM", "mixtral", Block::kPreNorm,
     QkNorm::kNone, false, "num_local_experts", kWidth, Renormalise::kAlways,
     Window::kPlain, false, true},
    {Family::kOlmoe, "OlmoeForCausalLM", "olmoe", Block::kPreNorm,
     QkNorm::kWhole, false, "num_experts", kWidth, Renormalise::kSays,
     Window::kNone, true, true},
    {Family::kQwen3Moe, "Qwen3MoeForCausalLM", "qwen3_moe", Block::kPreNorm,
     QkNorm::kPerHead, false, "num_experts", "moe_intermediate_size",
     Renormalise::kSays, Window::kSwitch, false, true},
    {Family::kFlexOlmo, "FlexOlmoForCausalLM", "flex_olmo", Block::kPostNorm,
     QkNorm::kWhole, false, "num_experts", kWidth, Renormalise::kSays,
     Window::kNone, true, true},
};

// The fields of config.json (and of a lock's router, for renormalise) that
// this family cannot have; none: the model is one of it.
std::vector<std::string> Obstacles(const FamilyInfo& family,
                                   const ModelConfig& config) {
  std::vector<std::string> reasons;
  const auto differs = [&](bool good, const std::string& got,
                           const std::string& want) {
    if (!good) reasons.push_back(absl::StrCat(got, " (want ", want, ")"));
  };
  const auto block = [](Block b) {
    const char* names[] = {"pre-norm", "post-norm", "parallel"};
    return names[static_cast<int>(b)];
  };
  const auto norm = [](QkNorm n) {
    const char* names[] = {"no QK-norm", "QK-norm over all heads",
                           "QK-norm by head"};
    return names[static_cast<int>(n)];
  };
  const auto bias = [](bool b) { return b ? "bias on q, k and v" : "no bias"; };
  differs(family.block == config.block,
          absl::StrCat("a ", block(config.block), " block"),
          block(family.block));
  differs(family.qk_norm == config.qk_norm, norm(config.qk_norm),
          norm(family.qk_norm));
  differs(family.qkv_bias == config.qkv_bias,
          absl::StrCat("attention_bias = ", config.qkv_bias ? "true" : "false"),
          bias(family.qkv_bias));
  differs((family.experts_key != nullptr) == (config.experts > 0),
          absl::StrCat("num_experts = ", config.experts),
          family.experts_key != nullptr ? "experts" : "a dense model");
  differs(config.attention_experts == AttentionExperts::kNone,
          "attention experts", "one attention for all");
  differs(config.experts == 0 || config.renormalise ||
              family.renormalise != Renormalise::kAlways,
          "router.renormalise = false", "true");
  differs(config.window == 0 || family.window != Window::kNone,
          absl::StrCat("sliding_window = ", config.window), "none");
  differs(config.window == 0 || config.window_from == 0 ||
              family.window == Window::kNone ||
              family.window == Window::kLayers,
          absl::StrCat("max_window_layers = ", config.window_from),
          "the window in every layer");
  return reasons;
}

bool Fits(const FamilyInfo& family, const ModelConfig& config) {
  return Obstacles(family, config).empty();
}

}  // namespace

std::span<const FamilyInfo> Families() { return kFamilies; }

const FamilyInfo* FamilyOf(const ModelConfig& config) {
  const FamilyInfo* first = nullptr;
  for (const FamilyInfo& family : kFamilies) {
    if (!Fits(family, config)) continue;
    if (family.family == config.family) return &family;
    if (first == nullptr) first = &family;
  }
  return first;
}

const char* Architecture(const ModelConfig& config) {
  const FamilyInfo* family = FamilyOf(config);
  return family == nullptr ? nullptr : family->architecture;
}

absl::Status CheckExport(const ModelConfig& config) {
  if (FamilyOf(config) != nullptr) return absl::OkStatus();
  // The nearest: a mixture for a mixture, then the least that would have to
  // change, then the first.
  const FamilyInfo* nearest = nullptr;
  std::vector<std::string> least, known;
  for (const FamilyInfo& family : kFamilies) {
    if ((family.experts_key != nullptr) != (config.experts > 0)) continue;
    known.push_back(family.architecture);
    std::vector<std::string> reasons = Obstacles(family, config);
    if (nearest == nullptr || reasons.size() < least.size()) {
      nearest = &family;
      least = std::move(reasons);
    }
  }
  return proto::Invalid(
      "export",
      absl::StrCat(absl::StrJoin(least, ", "), " for ", nearest->architecture,
                   ", the nearest"),
      absl::StrCat("what one of ", absl::StrJoin(known, ", "), " can say"),
      "serve it with motet");
}

}  // namespace motet::model
