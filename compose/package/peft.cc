// SPDX-License-Identifier: Apache-2.0
#include "compose/package/peft.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "compose/model/config_fields.h"
#include "compose/package/f32_tensors.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::package {
namespace {

using model::ConfigFields;
using model::ConfigJson;
using proto::Invalid;

constexpr absl::string_view kPrefix = "base_model.model.";
constexpr int64_t kMaxTargets = 64;

// Fields with one value that we run; PEFT's default where absent.
constexpr struct {
  const char* key;
  const char* value;  // JSON
} kFixed[] = {
    {"peft_type", "\"LORA\""},
    {"bias", "\"none\""},
    {"use_rslora", "false"},
    {"use_dora", "false"},
    {"use_qalora", "false"},
    {"use_bdlora", "null"},
    {"lora_bias", "false"},
    {"fan_in_fan_out", "false"},
    {"rank_pattern", "{}"},
    {"alpha_pattern", "{}"},
    {"modules_to_save", "null"},
    {"exclude_modules", "null"},
    {"layers_to_transform", "null"},
    {"layers_pattern", "null"},
    {"layer_replication", "null"},
    {"target_parameters", "null"},
    {"trainable_token_indices", "null"},
    {"alora_invocation_tokens", "null"},
    {"megatron_config", "null"},
    {"loftq_config", "{}"},
    {"eva_config", "null"},
    {"corda_config", "null"},
    {"lora_ga_config", "null"},
    {"arrow_config", "null"},
    {"kasa_config", "null"},
    {"velora_config", "null"},
    {"monteclora_config", "null"},
    {"ensure_weight_tying", "false"},
};
constexpr const char* kHarmless[] = {
    "auto_mapping",   "base_model_name_or_path",
    "inference_mode", "megatron_core",
    "peft_version",   "qalora_group_size",
    "revision",       "runtime_config",
    "task_type",
};
// Ways to begin that leave the base as it is; others change it.
constexpr const char* kPlainStarts[] = {"true", "false", "\"gaussian\"",
                                        "\"orthogonal\""};

absl::Status Refusal(const std::string& got) {
  return Invalid("adapter_config.json", got,
                 "a plain LoRA adapter",
                 "export the adapter as plain LoRA");
}

std::vector<std::string> Targets(ConfigFields& fields) {
  const ConfigJson* list = fields.Take("target_modules");
  std::vector<std::string> targets;
  bool good = list != nullptr && list->is_array() && !list->empty() &&
              static_cast<int64_t>(list->size()) <= kMaxTargets;
  for (size_t i = 0; good && i < list->size(); ++i) {
    good = (*list)[i].is_string();
    if (good) targets.push_back((*list)[i]);
  }
  if (!good) {
    fields.Refuse("target_modules", list,
                  "a list of names such as query and value");
  }
  // PEFT writes a set, in any order.
  std::sort(targets.begin(), targets.end());
  return targets;
}

}  // namespace

absl::StatusOr<model::LoraConfig> ParseLoraConfig(const std::string& json) {
  MOTET_ASSIGN_OR_RETURN(const ConfigJson object,
                         model::ParseConfigObject(json, Refusal));
  ConfigFields fields(object);
  model::LoraConfig config;
  if (!object.contains("peft_type")) {
    fields.Refuse("peft_type", nullptr, "\"LORA\"");
  }
  config.rank = fields.Size("r");
  config.alpha = fields.Real("lora_alpha");
  config.dropout =
      object.contains("lora_dropout") ? fields.Real("lora_dropout") : 0;
  config.targets = Targets(fields);
  const ConfigJson* start = fields.Take("init_lora_weights");
  if (start != nullptr &&
      std::none_of(
          std::begin(kPlainStarts), std::end(kPlainStarts),
          [&](const char* s) { return *start == ConfigJson::parse(s); })) {
    fields.Refuse("init_lora_weights", start,
                  absl::StrCat("one of ", absl::StrJoin(kPlainStarts, ", "),
                               ": others change the base"));
  }
  for (const auto& [key, value] : kFixed) fields.Only(key, value);
  for (const char* key : kHarmless) fields.Take(key);
  fields.RefuseRest();
  if (!fields.reasons().empty()) {
    return Refusal(absl::StrJoin(fields.reasons(), ", "));
  }
  return config;
}

std::string WriteLoraConfig(const model::LoraConfig& config,
                            const std::string& base_name) {
  ConfigJson out;
  out["peft_type"] = "LORA";
  out["auto_mapping"] = nullptr;
  out["base_model_name_or_path"] =
      base_name.empty() ? ConfigJson(nullptr) : ConfigJson(base_name);
  out["bias"] = "none";
  out["fan_in_fan_out"] = false;
  out["inference_mode"] = true;
  out["init_lora_weights"] = true;
  const bool whole = config.alpha == std::floor(config.alpha);
  out["lora_alpha"] = whole ? ConfigJson(static_cast<int64_t>(config.alpha))
                            : ConfigJson(config.alpha);
  out["lora_dropout"] = config.dropout;
  out["modules_to_save"] = nullptr;
  out["r"] = config.rank;
  out["target_modules"] = config.targets;
  out["task_type"] = "FEATURE_EXTRACTION";
  out["use_dora"] = false;
  out["use_rslora"] = false;
  return out.dump(2, ' ', false, ConfigJson::error_handler_t::replace) + "\n";
}

absl::StatusOr<std::unique_ptr<LoadedLora>> LoadLora(
    const std::string& folder, const model::EncoderConfig& base) {
  auto loaded = std::make_unique<LoadedLora>();
  MOTET_ASSIGN_OR_RETURN(
      const std::string json,
      proto::ReadFile(folder + "/adapter_config.json", proto::kMaxConfigBytes));
  MOTET_ASSIGN_OR_RETURN(loaded->lora.config, ParseLoraConfig(json));
  MOTET_RETURN_IF_ERROR(model::CheckLoraConfig(base, loaded->lora.config));
  MOTET_ASSIGN_OR_RETURN(
      loaded->file,
      SafetensorsFile::Open(folder + "/adapter_model.safetensors"));

  F32Tensors tensors(loaded->copies);
  for (const auto& entry : loaded->file->entries()) {
    // The second prefix is there when the base was wrapped for a task.
    tensors.Offer(
        absl::StripPrefix(absl::StripPrefix(entry.name, kPrefix), "bert."),
        entry.tensor);
  }
  model::VisitLora(
      base, loaded->lora,
      [&](const std::string& name, const math::Shape& shape,
          math::Tensor& tensor) { tensors.Take(name, shape, tensor); });
  MOTET_RETURN_IF_ERROR(tensors.Finish(absl::StrCat("adapter ", folder)));
  return loaded;
}

std::vector<NamedTensor> LoraTensors(const model::EncoderConfig& base,
                                     const model::Lora& lora) {
  std::vector<NamedTensor> tensors;
  model::Lora copy = lora;
  model::VisitLora(
      base, copy,
      [&](const std::string& name, const math::Shape&, math::Tensor& tensor) {
        tensors.push_back({absl::StrCat(kPrefix, name), tensor});
      });
  return tensors;
}

absl::Status SaveLora(const std::string& folder,
                      const model::EncoderConfig& base, const model::Lora& lora,
                      const std::string& base_name) {
  MOTET_RETURN_IF_ERROR(model::CheckLora(base, lora));
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder));
  MOTET_RETURN_IF_ERROR(WriteSafetensors(folder + "/adapter_model.safetensors",
                                         LoraTensors(base, lora)));
  return proto::WriteFileAtomic(folder + "/adapter_config.json",
                                WriteLoraConfig(lora.config, base_name));
}

}  // namespace motet::package
