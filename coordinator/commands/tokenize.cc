// SPDX-License-Identifier: Apache-2.0
// motet tokenize MODEL_DIR: what a tokenizer makes of texts, as ids. Needs
// no federation; the way to hold a tokenizer against another program's
// (tests/peers/tokenizers_equal.py).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/model/tokenizer.h"
#include "coordinator/cli.h"
#include "coordinator/json_text.h"
#include "coordinator/stream_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string path;
  std::string data;
  std::string text;
  bool decode = false;
  bool no_special = false;
  int64_t max_tokens = 0;
};

class Printer {
 public:
  Printer(const model::Tokenizer& tokenizer, const Options& options, bool json)
      : tokenizer_(tokenizer), options_(options), json_(json) {
    encode_.add_special_tokens = !options.no_special;
    encode_.max_tokens = options.max_tokens;
  }

  // One line a text.
  void Print(const std::string& text) {
    const std::vector<int32_t> ids = tokenizer_.Encode(text, encode_);
    std::string decoded;
    if (options_.decode) {
      decoded = ValidUtf8(tokenizer_.Decode(ids, /*special=*/true));
    }
    if (!json_) {
      absl::PrintF("%s\n", absl::StrJoin(ids, " "));
      if (options_.decode) absl::PrintF("%s\n", decoded);
      return;
    }
    nlohmann::json line = {{"ids", ids}};
    if (options_.decode) line["decoded"] = decoded;
    absl::PrintF("%s\n", JsonText(line));
  }

 private:
  const model::Tokenizer& tokenizer_;
  const Options& options_;
  const bool json_;
  model::EncodeOptions encode_;
};

absl::Status PrintFile(const std::string& path, Printer& printer) {
  std::ifstream file(path);
  if (!file) {
    return proto::Error(absl::StatusCode::kNotFound, path,
                        "no file that can be read", "JSON lines");
  }
  std::string line;
  for (int64_t number = 1; std::getline(file, line); ++number) {
    const auto where = [&] { return absl::StrCat(path, ":", number); };
    if (static_cast<int64_t>(line.size()) > proto::kMaxDocumentBytes) {
      return proto::Invalid(where(), absl::StrCat(line.size(), " bytes"),
                            absl::StrCat("at most ",
                                         proto::kMaxDocumentBytes));
    }
    const auto document = nlohmann::json::parse(line, nullptr, false);
    if (!document.is_object() || !document.contains("text") ||
        !document["text"].is_string()) {
      return proto::Invalid(where(), "no \"text\"",
                            "an object with a text on every line");
    }
    printer.Print(document["text"].get_ref<const std::string&>());
  }
  return absl::OkStatus();
}

absl::Status Run(const Options& options, const Context& context) {
  const std::string path = absl::EndsWith(options.path, ".json")
                               ? options.path
                               : options.path + "/tokenizer.json";
  MOTET_ASSIGN_OR_RETURN(const std::string json,
                         proto::ReadFile(path, proto::kMaxTokenizerBytes));
  MOTET_ASSIGN_OR_RETURN(const auto tokenizer, model::Tokenizer::Parse(json));
  Printer printer(*tokenizer, options, context.json);
  if (!options.data.empty()) return PrintFile(options.data, printer);
  printer.Print(options.text);
  return absl::OkStatus();
}

}  // namespace

void AddTokenize(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand(
      "tokenize", "Show what a tokenizer makes of texts");
  auto options = std::make_shared<Options>();
  command
      ->add_option("model", options->path,
                   "A folder with a tokenizer.json, or the file itself")
      ->required();
  auto* data = command->add_option(
      "--data", options->data, "A JSONL file; a line of ids for each \"text\"");
  auto* text = command->add_option("--text", options->text, "One text");
  data->excludes(text);
  command->add_flag("--decode", options->decode,
                    "With the text that the ids decode to");
  command->add_flag("--no-special-tokens", options->no_special,
                    "Without the tokens that the tokenizer adds to a text");
  command
      ->add_option("--max-tokens", options->max_tokens,
                   "Cut longer texts (0 = never)")
      ->check(CLI::NonNegativeNumber);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
