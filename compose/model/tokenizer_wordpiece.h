// SPDX-License-Identifier: Apache-2.0
// WordPiece: a word becomes the longest token that begins it, then the
// longest continuation, and so on; a word that does not come out whole is
// one unknown token. And its way back from tokens to text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace motet::model {

struct WordPieceParts {
  std::string prefix = "##";     // of tokens that continue a word
  int32_t unknown = -1;          // must be set
  int64_t longest_word = 100;    // in characters; longer ones are unknown
  std::string decoder_prefix = "##";
  bool cleanup = true;  // no space before punctuation in decoded text
};

// Immutable, shared by threads.
class WordPiece {
 public:
  // tokens: text by id; "" = no such id; ids that `known` refuses are no
  // pieces of words.
  WordPiece(WordPieceParts parts, const std::vector<std::string>& tokens,
            const std::vector<bool>& known);

  // Appends the ids of a word of valid UTF-8.
  void Encode(absl::string_view word, std::vector<int32_t>& ids) const;
  // Appends a token to decoded text; the first has no space before it.
  void Decode(absl::string_view token, bool first, std::string& text) const;

 private:
  using Ids = absl::flat_hash_map<std::string, int32_t>;

  WordPieceParts parts_;
  Ids begins_, continues_;  // continuations without their prefix
  size_t longest_token_ = 0;
};

}  // namespace motet::model
