// SPDX-License-Identifier: Apache-2.0
// A tokenizer.json taken apart: what the tokenizer needs, checked, and an
// error that names the part for everything else. Nothing is guessed: a part
// that would change ids and that we do not run is refused.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "compose/model/normalizer.h"
#include "compose/model/pretokenizer.h"
#include "compose/model/tokenizer_tables.h"
#include "compose/model/tokenizer_template.h"
#include "compose/model/tokenizer_wordpiece.h"
#include "nlohmann/json_fwd.hpp"

namespace motet::model {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;     // left out of decoded text
  // Matched in normalized text, after those that are not.
  bool normalized = false;
  bool single_word = false;  // none beside a letter, digit or the like
  bool in_model = false;     // a word may become it too
  bool lstrip = false;      // takes the white space before it along
  bool rstrip = false;      // and after it
};

struct BpeMerge {
  int32_t left = 0, right = 0, result = 0;
};

struct TokenizerParts {
  std::vector<std::string> tokens;  // bytes by id; "" = no such id
  std::vector<AddedToken> added;
  Normalizer normalizer;
  std::unique_ptr<Pretokenizer> pretokenizer;
  TokensAround around;
  bool is_wordpiece = false;
  WordPieceParts wordpiece;
  // BPE alone.
  std::vector<BpeMerge> merges;  // by rank
  std::vector<int32_t> byte_ids;  // 256; -1 = the vocabulary lacks it
  int32_t unknown = -1;           // stands for a lacking byte
  bool ignore_merges = false;     // a word in the vocabulary is one token
};

absl::StatusOr<TokenizerParts> ParseTokenizerJson(const std::string& json);

// Its steps, one a file. Ids by the token as it is spelled in the file; the
// keys lie where the tables' views do.
using TokenizerIds = absl::flat_hash_map<absl::string_view, int32_t>;
absl::Status ReadTokenizerModel(const nlohmann::json& model,
                                const TokenizerTables& tables,
                                TokenizerParts& parts, TokenizerIds& ids);
absl::StatusOr<int32_t> TokenId(const nlohmann::json& value,
                                absl::string_view part);
absl::Status SetToken(TokenizerParts& parts, int32_t id, std::string bytes,
                      absl::string_view part);

}  // namespace motet::model
