// SPDX-License-Identifier: Apache-2.0
// A folder of config.json and safetensors becomes config and weights, and
// back. The weights table (compose/model/weights.h) says which tensors there
// must be; this file only matches it with what lies on disk.
#include "compose/package/huggingface.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/package/weight_match.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::package {
namespace {

using nlohmann::json;
using proto::Invalid;

constexpr absl::string_view kHuggingFaceWeights = "model.safetensors";

// What the matrices are: transformers casts all weights to this one.
std::string DTypeOf(const std::vector<NamedTensor>& tensors) {
  bool bf16 = true, f16 = true;
  for (const NamedTensor& t : tensors) {
    if (t.tensor.shape.rank < 2) continue;
    bf16 = bf16 && t.tensor.dtype == math::DType::kBF16;
    f16 = f16 && t.tensor.dtype == math::DType::kF16;
  }
  return bf16 ? "bfloat16" : f16 ? "float16" : "float32";
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

// Null when none lies there.
absl::StatusOr<std::unique_ptr<model::Tokenizer>> LoadTokenizer(
    const std::string& folder) {
  const std::string path = folder + "/tokenizer.json";
  if (!proto::Exists(path)) return nullptr;
  MOTET_ASSIGN_OR_RETURN(const std::string text,
                         proto::ReadFile(path, proto::kMaxTokenizerBytes));
  auto parsed = model::Tokenizer::Parse(text);
  if (parsed.ok()) return parsed;
  return absl::Status(
      parsed.status().code(),
      absl::StrCat("[model ", path, "] ", parsed.status().message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(
    const std::string& folder, Numbers numbers) {
  auto loaded = std::make_unique<LoadedModel>();
  MOTET_ASSIGN_OR_RETURN(
      const std::string config,
      proto::ReadFile(folder + "/config.json", proto::kMaxConfigBytes));
  MOTET_ASSIGN_OR_RETURN(loaded->config, model::ParseConfig(config));
  MOTET_ASSIGN_OR_RETURN(loaded->files, OpenWeightFiles(folder));
  const std::vector<std::string> problems =
      MatchWeights(loaded->config, loaded->files, loaded->weights,
                   loaded->widened);
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
  absl::StatusOr<std::unique_ptr<model::Tokenizer>> tokenizer;
  const auto read = [&] { tokenizer = LoadTokenizer(folder); };
  absl::Status finite;
  if (numbers == Numbers::kFinite) {
    finite = CheckFinite(loaded->config, loaded->weights, read);
  } else {
    read();
  }
  MOTET_RETURN_IF_ERROR(tokenizer.status());
  loaded->tokenizer = *std::move(tokenizer);
  MOTET_RETURN_IF_ERROR(finite);
  return loaded;
}

absl::Status SaveModel(const std::string& folder,
                       const model::ModelConfig& config,
                       const model::ModelWeights& weights,
                       const std::string& tokenizer_json,
                       const std::string& weights_name) {
  MOTET_RETURN_IF_ERROR(model::CheckConfig(config));
  MOTET_RETURN_IF_ERROR(model::CheckExport(config));
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
  const std::string dtype = DTypeOf(tensors);
  MOTET_RETURN_IF_ERROR(WriteSafetensors(
      absl::StrCat(folder, "/", weights_name), std::move(tensors)));
  // Last: a folder with config.json is complete.
  return proto::WriteFileAtomic(folder + "/config.json",
                                model::WriteConfig(config, dtype));
}

}  // namespace motet::package
