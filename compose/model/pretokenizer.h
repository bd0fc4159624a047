// SPDX-License-Identifier: Apache-2.0
// The pre_tokenizer of a tokenizer.json: text in, words out. Words are views
// of bytes; merging never crosses them. Known: ByteLevel (with GPT-2's
// pattern or alone), Split by a pattern, Digits, and sequences of these that
// end in ByteLevel; BertPreTokenizer alone.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "compose/model/pretokenizer_regex.h"
#include "compose/model/pretokenizer_scan.h"
#include "nlohmann/json_fwd.hpp"

namespace motet::model {

// Immutable, shared by threads.
class Pretokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Pretokenizer>> Parse(
      const nlohmann::json& part);
  // ByteLevel with its pattern and no prefix space, as the trainer uses it.
  static std::unique_ptr<Pretokenizer> ByteLevel();

  // False for words of characters (BertPreTokenizer).
  bool byte_level() const { return byte_level_; }

  // What one call works with; words point into the text or into `made`.
  struct Scratch {
    Matcher matcher;
    std::vector<absl::string_view> words, next;
    std::deque<std::string> made;  // words that got a prefix space
  };
  // Fills scratch.words from valid UTF-8, none of them empty.
  void Split(absl::string_view text, Scratch& scratch) const;

 private:
  struct Step {
    bool prefix_space = false;     // first: a space before each word
    // Then one way of cutting, or none.
    Scan scan = Scan::kNone;
    std::unique_ptr<Regex> regex;
    bool keep_matches = true;
    bool keep_between = true;
  };
  absl::Status Add(const nlohmann::json& part, bool last, int depth);
  absl::Status AddByteLevel(const nlohmann::json& part);
  absl::Status AddSplit(const nlohmann::json& part);
  static void Cut(const Step& step, absl::string_view word, Scratch& scratch);

  std::vector<Step> steps_;
  bool byte_level_ = true;
};

}  // namespace motet::model
