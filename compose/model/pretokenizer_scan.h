// SPDX-License-Identifier: Apache-2.0
// The ways of cutting text that most tokenizers use, written out: one walk
// over the text with a look at each character's properties, many times as
// fast as the regular expressions, which stay what they are checked against.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"

namespace motet::model {

enum class Scan {
  kNone,
  kGpt2,        // ByteLevel's own pattern
  kCl100k,      // OLMo-2, Llama-3: digits in threes
  kQwen,        // the same with single digits
  kDigit,       // every numeric character alone, and what lies between
  kDigits,      // runs of them
  kBert,        // words and single punctuation; white space is dropped
};

extern const char kGpt2Pattern[];
// The scan that cuts as the pattern does, when all of its matches are kept.
Scan ScanOfPattern(absl::string_view pattern);
// Appends the words of valid UTF-8, none of them empty.
void ScanWords(Scan scan, absl::string_view text,
               std::vector<absl::string_view>& words);

}  // namespace motet::model
