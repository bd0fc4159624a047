// SPDX-License-Identifier: Apache-2.0
#include "compose/model/config_family.h"

#include <string>
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
     QkNorm::kNone, false, nullptr, kWidth, Renormalise::kNever,
     Window::kPlain, false, true},
    {Family::kQwen2, "Qwen2ForCausalLM", "qwen2", Block::kPreNorm,
     QkNorm::kNone, true, nullptr, kWidth, Renormalise::kNever,
     Window::kLayers, false, true},
    {Family::kQwen3, "Qwen3ForCausalLM", "qwen3", Block::kPreNorm,
     QkNorm::kPerHead, false, nullptr, kWidth, Renormalise::kNever,
     Window::kLayers, false, false},
    {Family::kOlmo2, "Olmo2ForCausalLM", "olmo2", Block::kPostNorm,
     QkNorm::kWhole, false, nullptr, kWidth, Renormalise::kNever,
     Window::kNone, true, true},
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

bool WindowFits(const FamilyInfo& family, const ModelConfig& config) {
  if (config.window == 0) return true;
  if (family.window == Window::kNone) return false;
  return family.window == Window::kLayers || config.window_from == 0;
}

bool Fits(const FamilyInfo& family, const ModelConfig& config) {
  return family.block == config.block && family.qk_norm == config.qk_norm &&
         family.qkv_bias == config.qkv_bias &&
         (family.experts_key != nullptr) == (config.experts > 0) &&
         (config.experts == 0 || config.renormalise ||
          family.renormalise != Renormalise::kAlways) &&
         WindowFits(family, config);
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
  std::vector<std::string> known;
  for (const FamilyInfo& family : kFamilies) {
    known.push_back(family.architecture);
  }
  const char* norms[] = {"no QK-norm", "QK-norm", "QK-norm by head"};
  return proto::Invalid(
      "export",
      absl::StrCat("a ",
                   config.block == Block::kPreNorm ? "pre-norm" : "post-norm",
                   " decoder with ", norms[static_cast<int>(config.qk_norm)],
                   config.qkv_bias ? ", bias on q, k and v" : "",
                   config.window > 0
                       ? absl::StrCat(", a window of ", config.window,
                                      " from layer ", config.window_from)
                       : "",
                   config.experts > 0
                       ? absl::StrCat(", ", config.experts, " experts, weights ",
                                      config.renormalise ? "" : "not ",
                                      "renormalised")
                       : ", no experts"),
      absl::StrCat("what one of ", absl::StrJoin(known, ", "), " can say"),
      "serve it with motet");
}

}  // namespace motet::model
