// SPDX-License-Identifier: Apache-2.0
// The text that eval exclusion and eval logits run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/composition.h"

namespace CLI {
class App;
}

namespace motet::coordinator {

struct PromptOptions {
  std::string prompt;
  std::vector<std::string> data;  // JSONL files
  int64_t tokens = 384;
};
void AddPromptOptions(CLI::App& command, PromptOptions& options);

// The prompt's ids, at most options.tokens and the model's context: the given
// text; or equal parts of the given files; or of the base's public text. Of a
// file, the beginnings of documents spread evenly over it.
absl::StatusOr<std::vector<int32_t>> PromptIds(
    const PromptOptions& options, const std::string& base_folder,
    const assemble::Composition& composition);

}  // namespace motet::coordinator
