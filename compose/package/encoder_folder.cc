// SPDX-License-Identifier: Apache-2.0
#include "compose/package/encoder_folder.h"

#include <utility>

#include "absl/strings/match.h"
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

absl::Status Refusal(const std::string& got) {
  return Invalid("sentence-transformers files", got,
                 "a Transformer, mean pooling and perhaps Normalize",
                 "choose another encoder");
}

absl::Status Refuse(const ConfigFields& fields) {
  if (fields.reasons().empty()) return absl::OkStatus();
  return Refusal(absl::StrJoin(fields.reasons(), ", "));
}

absl::StatusOr<ConfigJson> ReadObject(const std::string& path) {
  MOTET_ASSIGN_OR_RETURN(const std::string text,
                         proto::ReadFile(path, proto::kMaxConfigBytes));
  return model::ParseConfigObject(text, Refusal);
}

// 1_Pooling/config.json: the mean of the tokens and nothing else.
absl::Status CheckPooling(const std::string& path, int64_t width) {
  MOTET_ASSIGN_OR_RETURN(const ConfigJson object, ReadObject(path));
  ConfigFields fields(object);
  const int64_t size = fields.Size("word_embedding_dimension", &width);
  if (size != width) {
    fields.Refuse("word_embedding_dimension",
                  &object["word_embedding_dimension"],
                  absl::StrCat(width, ", the encoder's width"));
  }
  for (const char* mode :
       {"pooling_mode_cls_token", "pooling_mode_max_tokens",
        "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens",
        "pooling_mode_lasttoken"}) {
    fields.Only(mode, "false");
  }
  fields.Only("include_prompt", "true");
  fields.Only("pooling_mode", "\"mean\"");
  if (!object.contains("pooling_mode") &&
      !fields.Flag("pooling_mode_mean_tokens")) {
    fields.Refuse("pooling_mode_mean_tokens", nullptr, "true");
  }
  fields.RefuseRest();
  return Refuse(fields);
}

// modules.json: Transformer, Pooling, perhaps Normalize, in this order.
absl::Status ReadModules(const std::string& folder, LoadedEncoder& loaded) {
  MOTET_ASSIGN_OR_RETURN(
      const std::string text,
      proto::ReadFile(folder + "/modules.json", proto::kMaxConfigBytes));
  MOTET_ASSIGN_OR_RETURN(
      const ConfigJson object,
      model::ParseConfigObject(absl::StrCat("{\"modules\":", text, "}"),
                               Refusal));
  const ConfigJson& modules = object["modules"];
  if (object.size() != 1 || !modules.is_array()) {
    return Refusal("a modules.json that is no list");
  }
  std::vector<std::string> kinds;
  for (const ConfigJson& module : modules) {
    if (!module.is_object() || !module.contains("type") ||
        !module["type"].is_string()) {
      return Refusal(absl::StrCat("module ", model::ShowConfigValue(module)));
    }
    const std::string type = module["type"];
    const std::string kind = type.substr(type.rfind('.') + 1);
    const std::string path = module.value("path", std::string());
    if (kind == "Transformer" && !path.empty()) {
      return Refusal(absl::StrCat("a Transformer in \"", path,
                                  "\" (want it in the folder itself)"));
    }
    if (kind == "Pooling") {
      if (path.empty() || path[0] == '/' || absl::StrContains(path, "..")) {
        return Refusal(
            absl::StrCat("Pooling in ", model::ShowConfigValue(module)));
      }
      MOTET_RETURN_IF_ERROR(
          CheckPooling(absl::StrCat(folder, "/", path, "/config.json"),
                       loaded.config.width));
    }
    kinds.push_back(kind);
  }
  loaded.normalise = !kinds.empty() && kinds.back() == "Normalize";
  std::vector<std::string> want = {"Transformer", "Pooling"};
  if (loaded.normalise) want.push_back("Normalize");
  if (kinds != want) {
    return Refusal(absl::StrCat("modules ", absl::StrJoin(kinds, ", ")));
  }
  return absl::OkStatus();
}

absl::Status ReadLimits(const std::string& path, LoadedEncoder& loaded) {
  MOTET_ASSIGN_OR_RETURN(const ConfigJson object, ReadObject(path));
  ConfigFields fields(object);
  loaded.max_tokens = fields.Size("max_seq_length", &loaded.max_tokens);
  fields.Only("do_lower_case", "false");  // the tokenizer's own business
  fields.RefuseRest();
  if (loaded.max_tokens < 3 ||
      loaded.max_tokens > loaded.config.max_positions) {
    fields.Refuse("max_seq_length", nullptr,
                  absl::StrCat("3 to ", loaded.config.max_positions));
  }
  return Refuse(fields);
}

// What is not run, and constants that older exports carry.
bool IsUnused(absl::string_view name) {
  return absl::StartsWith(name, "pooler.") || absl::StartsWith(name, "cls.") ||
         name == "embeddings.position_ids" ||
         name == "embeddings.token_type_ids";
}

absl::Status Match(const std::string& folder, LoadedEncoder& loaded) {
  F32Tensors tensors(loaded.copies);
  for (const auto& file : loaded.files) {
    for (const auto& entry : file->entries()) {
      const absl::string_view name = absl::StripPrefix(entry.name, "bert.");
      if (!IsUnused(name)) tensors.Offer(name, entry.tensor);
    }
  }
  model::VisitEncoderWeights(
      loaded.config, loaded.weights,
      [&](const std::string& name, const math::Shape& shape,
          math::Tensor& tensor) { tensors.Take(name, shape, tensor); });
  return tensors.Finish(absl::StrCat("encoder ", folder));
}

constexpr char kModules[] = R"([
  {"idx": 0, "name": "0", "path": "",
   "type": "sentence_transformers.models.Transformer"},
  {"idx": 1, "name": "1", "path": "1_Pooling",
   "type": "sentence_transformers.models.Pooling"})";
constexpr char kNormalize[] = R"(,
  {"idx": 2, "name": "2", "path": "2_Normalize",
   "type": "sentence_transformers.models.Normalize"})";

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedEncoder>> LoadEncoder(
    const std::string& folder) {
  auto loaded = std::make_unique<LoadedEncoder>();
  MOTET_ASSIGN_OR_RETURN(
      const std::string config,
      proto::ReadFile(folder + "/config.json", proto::kMaxConfigBytes));
  MOTET_ASSIGN_OR_RETURN(loaded->config, model::ParseEncoderConfig(config));
  loaded->max_tokens = loaded->config.max_positions;
  if (proto::Exists(folder + "/modules.json")) {
    MOTET_RETURN_IF_ERROR(ReadModules(folder, *loaded));
  }
  const std::string limits = folder + "/sentence_bert_config.json";
  if (proto::Exists(limits)) {
    MOTET_RETURN_IF_ERROR(ReadLimits(limits, *loaded));
  }
  MOTET_ASSIGN_OR_RETURN(loaded->files, OpenWeightFiles(folder));
  MOTET_RETURN_IF_ERROR(Match(folder, *loaded));
  return loaded;
}

absl::Status SaveEncoder(const std::string& folder,
                         const model::EncoderConfig& config,
                         const model::EncoderWeights& weights, bool normalise,
                         int64_t max_tokens) {
  MOTET_RETURN_IF_ERROR(model::CheckEncoderConfig(config));
  MOTET_RETURN_IF_ERROR(model::CheckEncoderWeights(config, weights));
  std::vector<NamedTensor> tensors;
  model::EncoderWeights copy = weights;
  model::VisitEncoderWeights(
      config, copy,
      [&](const std::string& name, const math::Shape&, math::Tensor& tensor) {
        tensors.push_back({name, tensor});
      });
  ConfigJson pooling;
  pooling["word_embedding_dimension"] = config.width;
  pooling["pooling_mode_cls_token"] = false;
  pooling["pooling_mode_mean_tokens"] = true;
  pooling["pooling_mode_max_tokens"] = false;
  pooling["pooling_mode_mean_sqrt_len_tokens"] = false;
  ConfigJson limits;
  limits["max_seq_length"] = max_tokens;
  limits["do_lower_case"] = false;
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder + "/1_Pooling"));
  const std::pair<const char*, std::string> files[] = {
      {"/1_Pooling/config.json", pooling.dump(2) + "\n"},
      {"/sentence_bert_config.json", limits.dump(2) + "\n"},
      {"/modules.json",
       absl::StrCat(kModules, normalise ? kNormalize : "", "\n]\n")},
  };
  for (const auto& [name, text] : files) {
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(folder + name, text));
  }
  MOTET_RETURN_IF_ERROR(
      WriteSafetensors(folder + "/model.safetensors", std::move(tensors)));
  return proto::WriteFileAtomic(folder + "/config.json",
                                model::WriteEncoderConfig(config));
}

}  // namespace motet::package
