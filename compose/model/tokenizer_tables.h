// SPDX-License-Identifier: Apache-2.0
// The two long tables of a tokenizer.json, its vocabulary and its merges,
// read straight from the text; what is left of the document is small.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace motet::model {

struct TokenizerTables {
  // In the order of the file, keys perhaps twice. The views lie in the text
  // or in `unescaped`.
  std::vector<std::pair<absl::string_view, int32_t>> vocabulary;
  std::vector<std::pair<absl::string_view, absl::string_view>> merges;
  std::deque<std::string> unescaped;
  bool has_merges = false;  // they are there, and an array
  // Why a table that is well-formed JSON cannot be used; it is empty then.
  absl::Status vocabulary_status, merges_status;
};

// Reads model.vocab, where it is an object, and model.merges, where it is an
// array, into `tables` (all empty before) and gives the rest of the document
// with null in their place. `text` must outlive `tables`. Errors are those of
// ParseStrictJson(text), but a token given twice is the caller's to find.
absl::StatusOr<nlohmann::json> TakeTokenizerTables(absl::string_view text,
                                                   TokenizerTables& tables);

}  // namespace motet::model
