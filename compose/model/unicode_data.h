// SPDX-License-Identifier: Apache-2.0
// What characters are to the stock library (unicode_*.inl, generated), as
// tables with one look-up a character, built once in about a millisecond.
// Nothing here knows of strings: unicode.h has UTF-8, unicode_normal.h the
// normal forms.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace motet::model {

enum CharacterProperty : uint16_t {
  kLetter = 1 << 0,       // \p{L} in a pattern
  kNumber = 1 << 1,       // \p{N} in a pattern
  kSpace = 1 << 2,        // white space everywhere
  kNumeric = 1 << 3,      // for the Digits pre-tokenizer
  kPunctuation = 1 << 4,  // for BERT
  kRemoved = 1 << 5,      // by BERT's clean_text
  kMark = 1 << 6,         // an accent that BERT strips
  kWord = 1 << 7,         // \w beside an added token
  // Derived here: a text without any of these stays as it is under NFC, NFD
  // and lower-casing.
  kMovesInNfc = 1 << 8,
  kMovesInNfd = 1 << 9,
  kHasLower = 1 << 10,
};

class UnicodeData {
 public:
  static const UnicodeData& Get();

  // Any number; above U+10FFFF nothing holds.
  uint16_t Properties(char32_t c) const {
    return c < 0x110000 ? pages_[page_of_[c >> 8]][c & 0xFF] : 0;
  }
  // 0 for starters.
  uint8_t CombiningClass(char32_t c) const;
  // One step of canonical decomposition: {c, 0} when there is none, {x, 0}
  // for one character. Hangul is in it.
  std::pair<char32_t, char32_t> Decompose(char32_t c) const;
  // The character that the two compose to, 0 when none.
  char32_t Compose(char32_t a, char32_t b) const;
  // U+0130, which becomes two characters, is the caller's.
  char32_t Lower(char32_t c) const;

 private:
  UnicodeData();
  void Mark(char32_t c, uint16_t property);
  void MarkNormalForms();

  std::array<uint16_t, 0x1100> page_of_;
  std::vector<bool> own_page_;  // by block
  std::vector<std::array<uint16_t, 256>> pages_;
  absl::flat_hash_map<char32_t, uint8_t> classes_;
  absl::flat_hash_map<char32_t, std::pair<char32_t, char32_t>> parts_;
  absl::flat_hash_map<uint64_t, char32_t> composed_;
  absl::flat_hash_map<char32_t, char32_t> lower_;
};

}  // namespace motet::model
