// SPDX-License-Identifier: Apache-2.0
#include "coordinator/commands/eval_prompt.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "compose/learn/corpus.h"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

constexpr size_t kPieces = 8;  // documents of a file that a prompt visits

}  // namespace

void AddPromptOptions(CLI::App& command, PromptOptions& options) {
  auto* prompt = command.add_option("--prompt", options.prompt,
                                    "Text to run; default: public text");
  command
      .add_option("--data", options.data,
                  "Or text from this JSONL file; once for each")
      ->allow_extra_args(false)
      ->excludes(prompt);
  command.add_option("--tokens", options.tokens, "At most this many tokens")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
}

absl::StatusOr<std::vector<int32_t>> PromptIds(
    const PromptOptions& options, const std::string& base_folder,
    const assemble::Composition& composition) {
  const model::Tokenizer& tokenizer = composition.tokenizer();
  const size_t most = static_cast<size_t>(
      std::min(options.tokens, composition.config.max_positions));
  std::vector<int32_t> ids;
  if (!options.prompt.empty()) {
    ids = tokenizer.Encode(options.prompt);
    if (ids.size() > most) ids.resize(most);
    return ids;
  }
  std::vector<std::string> files = options.data;
  if (files.empty()) files = {base_folder + "/public.jsonl"};
  for (size_t f = 0; f < files.size(); ++f) {
    MOTET_ASSIGN_OR_RETURN(const auto documents, learn::ReadJsonl(files[f]));
    const size_t pieces = std::min(kPieces, documents.size());
    for (size_t p = 0; p < pieces; ++p) {
      const size_t until =
          most * (f * pieces + p + 1) / (files.size() * pieces);
      const auto more =
          tokenizer.Encode(documents[documents.size() * p / pieces]);
      for (size_t i = 0; i < more.size() && ids.size() < until; ++i) {
        ids.push_back(more[i]);
      }
    }
  }
  if (ids.empty()) {
    return proto::Invalid("prompt", "no text", "some",
                          "give --prompt or --data");
  }
  return ids;
}

}  // namespace motet::coordinator
