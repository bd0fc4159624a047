// SPDX-License-Identifier: Apache-2.0
// motet model show|convert DIR: what a Hugging Face model directory holds, and
// the same model written again. No federation is needed.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/package/huggingface.h"
#include "coordinator/cli.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string folder;
  std::string out;
};

// Loaded, and every number of it looked at.
absl::StatusOr<std::unique_ptr<package::LoadedModel>> Open(
    const std::string& folder) {
  return package::LoadModel(folder, package::Numbers::kFinite);
}

absl::Status Show(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const auto loaded, Open(options.folder));
  const model::ModelConfig& config = loaded->config;
  std::set<std::string> dtypes;
  int64_t bytes = 0;
  for (const auto& file : loaded->files) {
    bytes += static_cast<int64_t>(file->file_bytes());
    for (const auto& entry : file->entries()) {
      dtypes.insert(math::Name(entry.tensor.dtype));
    }
  }
  const int64_t parameters = model::CountParameters(config);
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::ordered_json{
                             {"architecture", model::Architecture(config)},
                             {"parameters", parameters},
                             {"bytes", bytes},
                             {"files", loaded->files.size()},
                             {"dtypes", dtypes},
                             {"layers", config.layers},
                             {"width", config.width},
                             {"heads", config.heads},
                             {"kv_heads", config.kv_heads},
                             {"head_dim", config.head_dim},
                             {"ffn_width", config.ffn_width},
                             {"experts", config.experts},
                             {"experts_per_token", config.experts_per_token},
                             {"vocabulary", config.vocabulary},
                             {"max_positions", config.max_positions},
                             {"window", config.window},
                             {"tied_head", config.tied_head},
                             {"tokenizer", loaded->tokenizer != nullptr}}));
    return absl::OkStatus();
  }
  absl::PrintF("%s: %s, %d parameters, %s in %d files\n", options.folder,
               model::Architecture(config), parameters,
               absl::StrJoin(dtypes, " and "),
               static_cast<int>(loaded->files.size()));
  absl::PrintF("%d layers of %d, %d heads over %d of %d, FFN %d%s\n",
               config.layers, config.width, config.heads, config.kv_heads,
               config.head_dim, config.ffn_width,
               config.experts > 0
                   ? absl::StrCat(", ", config.experts, " experts, ",
                                  config.experts_per_token, " a token")
                   : "");
  absl::PrintF("%d tokens in the vocabulary, %d positions%s, %s head, %s\n",
               config.vocabulary, config.max_positions,
               config.window > 0
                   ? absl::StrCat(", a window of ", config.window)
                   : "",
               config.tied_head ? "tied" : "untied",
               loaded->tokenizer != nullptr ? "with a tokenizer"
                                            : "no tokenizer.json");
  return absl::OkStatus();
}

absl::Status Convert(const Options& options, const Context& context) {
  if (proto::Exists(options.out)) {
    MOTET_ASSIGN_OR_RETURN(const auto names,
                           proto::ListDirectory(options.out));
    if (!names.empty()) {
      return proto::Error(absl::StatusCode::kAlreadyExists,
                          absl::StrCat("convert ", options.out),
                          "a folder with files", "a new or empty folder",
                          "choose another --out");
    }
  }
  MOTET_ASSIGN_OR_RETURN(const auto loaded, Open(options.folder));
  std::string tokenizer;
  const std::string path = options.folder + "/tokenizer.json";
  if (proto::Exists(path)) {
    MOTET_ASSIGN_OR_RETURN(tokenizer,
                           proto::ReadFile(path, proto::kMaxTokenizerBytes));
  }
  MOTET_RETURN_IF_ERROR(package::SaveModel(options.out, loaded->config,
                                           loaded->weights, tokenizer));
  const char* architecture = model::Architecture(loaded->config);
  if (context.json) {
    absl::PrintF("%s\n",
                 JsonText(nlohmann::ordered_json{
                     {"folder", options.out}, {"architecture", architecture}}));
  } else {
    absl::PrintF("%s: %s, for transformers\n", options.out, architecture);
  }
  return absl::OkStatus();
}

}  // namespace

void AddModel(CLI::App& app, Context& context) {
  CLI::App* noun = Noun(app, "model",
                        "Hugging Face model directories: show, convert");
  auto options = std::make_shared<Options>();
  CLI::App* show = noun->add_subcommand(
      "show", "Check a model directory to the last number and say what it is");
  show->add_option("model", options->folder, "The model's directory")
      ->required();
  SetAction(show, context,
            [options, &context] { return Show(*options, context); });
  CLI::App* convert = noun->add_subcommand(
      "convert", "Check a model directory and write it as one safetensors "
                 "file that transformers 4 and 5 load");
  convert->add_option("model", options->folder, "The model's directory")
      ->required();
  convert->add_option("--out", options->out, "A new or empty folder")
      ->required();
  SetAction(convert, context,
            [options, &context] { return Convert(*options, context); });
}

}  // namespace motet::coordinator
