// SPDX-License-Identifier: Apache-2.0
// A tokenizer.json taken apart: what the tokenizer needs, checked, and an
// error that names the part for everything else. Nothing is guessed: a part
// that would change ids and that we do not run is refused.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/model/pretokenizer.h"

namespace motet::model {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;     // left out of decoded text
  bool normalized = false;  // matched after those that are not
  bool lstrip = false;      // takes the white space before it along
  bool rstrip = false;      // and after it
};

struct BpeMerge {
  int32_t left = 0, right = 0, result = 0;
};

struct TokenizerParts {
  std::vector<std::string> tokens;  // bytes by id; "" = no such id
  std::vector<BpeMerge> merges;     // by rank
  std::vector<AddedToken> added;
  std::vector<int32_t> byte_ids;    // 256; -1 = the vocabulary lacks it
  int32_t unknown = -1;             // stands for a lacking byte
  bool ignore_merges = false;       // a word in the vocabulary is one token
  std::unique_ptr<Pretokenizer> pretokenizer;
};

absl::StatusOr<TokenizerParts> ParseTokenizerJson(const std::string& json);

}  // namespace motet::model
