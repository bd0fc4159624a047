// SPDX-License-Identifier: Apache-2.0
// A folder of config.json and safetensors becomes config and weights, and
// back. The weights table (compose/model/weights.h) says which tensors there
// must be; this file only matches it with what lies on disk.
#include "compose/package/huggingface.h"

#include <string.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/package/weight_files.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::package {
namespace {

using nlohmann::json;
using proto::Invalid;

constexpr absl::string_view kHuggingFaceWeights = "model.safetensors";

using Files = WeightFiles;

// Old exports carry a constant that the config already says.
bool IsDerived(absl::string_view name) {
  return absl::EndsWith(name, ".rotary_emb.inv_freq");
}

// Fills `weights` from the files; every disagreement becomes a problem.
std::vector<std::string> Match(const model::ModelConfig& config,
                               const Files& files,
                               model::ModelWeights& weights) {
  std::vector<std::string> problems;
  absl::flat_hash_map<absl::string_view, math::Tensor> left;
  for (const auto& file : files) {
    for (const auto& entry : file->entries()) {
      if (IsDerived(entry.name)) continue;
      if (!left.emplace(entry.name, entry.tensor).second) {
        problems.push_back(absl::StrCat(entry.name, " in two files"));
      }
    }
  }
  model::VisitWeights(
      config, weights,
      [&](const std::string& name, const math::Shape& shape,
          math::Tensor& tensor) {
        const auto it = left.find(name);
        if (it == left.end()) {
          problems.push_back(absl::StrCat(name, " is missing"));
          return;
        }
        tensor = it->second;
        left.erase(it);
        if (!(tensor.shape == shape)) {
          problems.push_back(absl::StrCat(name, " is ",
                                          tensor.shape.ToString(), ", not ",
                                          shape.ToString()));
        }
        if (tensor.dtype != math::DType::kF32 &&
            tensor.dtype != math::DType::kBF16) {
          problems.push_back(absl::StrCat(
              name, " is ", math::Name(tensor.dtype), ", not F32 or BF16"));
        }
      });
  if (config.tied_head) {
    weights.head = weights.embed;
    // A stored copy of a tied head must be one.
    const auto copy = left.find("lm_head.weight");
    if (copy != left.end()) {
      const math::Tensor& head = copy->second;
      if (head.dtype != weights.embed.dtype ||
          !(head.shape == weights.embed.shape) ||
          memcmp(head.data, weights.embed.data, head.bytes()) != 0) {
        problems.push_back("lm_head.weight differs from the tied embedding");
      }
      left.erase(copy);
    }
  }
  std::set<std::string> unknown;
  for (const auto& [name, tensor] : left) unknown.emplace(name);
  for (const std::string& name : unknown) {
    problems.push_back(absl::StrCat(name, " is unknown"));
  }
  return problems;
}

// What AutoTokenizer needs beside tokenizer.json.
std::string TokenizerConfig(const model::ModelConfig& config,
                            const model::Tokenizer& tokenizer) {
  nlohmann::ordered_json j;
  j["tokenizer_class"] = "PreTrainedTokenizerFast";
  j["model_max_length"] = config.max_positions;
  j["clean_up_tokenization_spaces"] = false;
  const std::pair<const char*, int32_t> specials[] = {
      {"bos_token", config.bos_id},
      {"eos_token", config.eos_id},
      {"pad_token", config.pad_id}};
  for (const auto& [key, id] : specials) {
    const std::string token = id < 0 ? "" : tokenizer.TokenBytes(id);
    if (!token.empty()) j[key] = token;
  }
  return j.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(
    const std::string& folder) {
  auto loaded = std::make_unique<LoadedModel>();
  MOTET_ASSIGN_OR_RETURN(
      const std::string config,
      proto::ReadFile(folder + "/config.json", proto::kMaxConfigBytes));
  MOTET_ASSIGN_OR_RETURN(loaded->config, model::ParseConfig(config));
  MOTET_ASSIGN_OR_RETURN(loaded->files, OpenWeightFiles(folder));
  const std::vector<std::string> problems =
      Match(loaded->config, loaded->files, loaded->weights);
  if (!problems.empty()) {
    constexpr size_t kShown = 50;
    std::string list = absl::StrJoin(
        problems.begin(),
        problems.begin() + std::min(problems.size(), kShown), ", ");
    if (problems.size() > kShown) {
      absl::StrAppend(&list, " and ", problems.size() - kShown, " more");
    }
    return Invalid(absl::StrCat("model ", folder),
                   absl::StrCat(problems.size(),
                                " tensors that do not fit config.json (", list,
                                ")"),
                   "the tensors that config.json describes",
                   "check that the files belong together");
  }
  const std::string tokenizer = folder + "/tokenizer.json";
  if (proto::Exists(tokenizer)) {
    MOTET_ASSIGN_OR_RETURN(
        const std::string text,
        proto::ReadFile(tokenizer, proto::kMaxTokenizerBytes));
    auto parsed = model::Tokenizer::Parse(text);
    if (!parsed.ok()) {
      return absl::Status(parsed.status().code(),
                          absl::StrCat("[model ", tokenizer, "] ",
                                       parsed.status().message()));
    }
    loaded->tokenizer = *std::move(parsed);
  }
  return loaded;
}

absl::Status SaveModel(const std::string& folder,
                       const model::ModelConfig& config,
                       const model::ModelWeights& weights,
                       const std::string& tokenizer_json,
                       const std::string& weights_name) {
  MOTET_RETURN_IF_ERROR(model::CheckConfig(config));
  std::vector<NamedTensor> tensors;
  std::vector<std::string> problems;
  model::ModelWeights copy = weights;
  model::VisitWeights(config, copy,
                      [&](const std::string& name, const math::Shape& shape,
                          math::Tensor& tensor) {
                        if (tensor.empty() || !(tensor.shape == shape)) {
                          problems.push_back(absl::StrCat(
                              name, tensor.empty()
                                        ? " is missing"
                                        : absl::StrCat(
                                              " is ", tensor.shape.ToString(),
                                              ", not ", shape.ToString())));
                        }
                        tensors.push_back({name, tensor});
                      });
  if (!problems.empty()) {
    return Invalid(absl::StrCat("model ", folder),
                   absl::StrJoin(problems, ", "),
                   "the tensors that the config describes");
  }
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder));
  if (!tokenizer_json.empty()) {
    MOTET_ASSIGN_OR_RETURN(const auto tokenizer,
                           model::Tokenizer::Parse(tokenizer_json));
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(folder + "/tokenizer.json",
                                                 tokenizer_json));
    // Packages hold what DESIGN lists and nothing for other loaders.
    if (weights_name == kHuggingFaceWeights) {
      MOTET_RETURN_IF_ERROR(
          proto::WriteFileAtomic(folder + "/tokenizer_config.json",
                                 TokenizerConfig(config, *tokenizer)));
    }
  }
  MOTET_RETURN_IF_ERROR(WriteSafetensors(
      absl::StrCat(folder, "/", weights_name), std::move(tensors)));
  // Last: a folder with config.json is complete.
  return proto::WriteFileAtomic(folder + "/config.json",
                                model::WriteConfig(config));
}

}  // namespace motet::package
