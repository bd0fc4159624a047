// SPDX-License-Identifier: Apache-2.0
#include "compose/model/unicode_data.h"

#include <algorithm>
#include <iterator>
#include <map>

namespace motet::model {
namespace {

#include "compose/model/unicode_normalization.inl"
#include "compose/model/unicode_properties.inl"

// Hangul syllables are arithmetic (Unicode 3.12).
constexpr char32_t kSyllables = 0xAC00, kLead = 0x1100, kVowel = 0x1161,
                   kTail = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28;
constexpr char32_t kSyllableCount = kLeads * kVowels * kTails;

uint64_t Pair(char32_t a, char32_t b) {
  return static_cast<uint64_t>(a) << 32 | b;
}

}  // namespace

const UnicodeData& UnicodeData::Get() {
  static const UnicodeData* const data = new UnicodeData;
  return *data;
}

UnicodeData::UnicodeData() : own_page_(0x1100, false) {
  // Pages of one property throughout, most of the code space, are kept once.
  std::map<uint16_t, uint16_t> uniform;
  char32_t at = 0;
  for (size_t i = 0; i < std::size(kPropertyRuns); i += 2) {
    const char32_t end = at + kPropertyRuns[i];
    const auto property = static_cast<uint16_t>(kPropertyRuns[i + 1]);
    while (at < end) {
      const char32_t from = at & 0xFF;
      const char32_t n = std::min<char32_t>(end - at, 256 - from);
      const auto next = static_cast<uint16_t>(pages_.size());
      uint16_t& page = page_of_[at >> 8];
      if (n == 256) {
        page = uniform.emplace(property, next).first->second;
      } else if (from == 0) {
        page = next;
      }
      if (page == next) pages_.emplace_back();
      std::fill_n(pages_[page].begin() + from, n, property);
      at += n;
    }
  }
  at = 0;
  for (size_t i = 0; i < std::size(kCombiningRuns); i += 2) {
    for (uint32_t n = 0; n < kCombiningRuns[i]; ++n, ++at) {
      if (kCombiningRuns[i + 1] == 0) continue;
      classes_[at] = static_cast<uint8_t>(kCombiningRuns[i + 1]);
    }
  }
  for (size_t i = 0; i < std::size(kCompositions); i += 3) {
    const uint32_t* c = kCompositions + i;
    parts_[c[0]] = {c[1], c[2]};
    composed_[Pair(c[1], c[2])] = c[0];
  }
  for (size_t i = 0; i < std::size(kDecompositions); i += 3) {
    const uint32_t* c = kDecompositions + i;
    parts_[c[0]] = {c[1], c[2]};
  }
  for (size_t i = 0; i < std::size(kLowerCase); i += 4) {
    const uint32_t* run = kLowerCase + i;
    for (char32_t c = run[0]; c <= run[1]; c += run[2]) {
      lower_[c] = run[3] + (c - run[0]);
    }
  }
  MarkNormalForms();
}

// Pages are shared: a block that is about to differ gets its own first.
void UnicodeData::Mark(char32_t c, uint16_t property) {
  const size_t block = c >> 8;
  if (!own_page_[block]) {
    const std::array<uint16_t, 256> copy = pages_[page_of_[block]];
    page_of_[block] = static_cast<uint16_t>(pages_.size());
    pages_.push_back(copy);
    own_page_[block] = true;
  }
  pages_[page_of_[block]][c & 0xFF] |= property;
}

void UnicodeData::MarkNormalForms() {
  for (const auto& [c, combining] : classes_) {
    Mark(c, kMovesInNfc | kMovesInNfd);
  }
  for (const auto& [c, parts] : parts_) {
    Mark(c, kMovesInNfd);
    // What decomposes and does not come back.
    const auto back = composed_.find(Pair(parts.first, parts.second));
    if (back == composed_.end()) Mark(c, kMovesInNfc);
  }
  // What may join what stands before it.
  for (const auto& [pair, c] : composed_) {
    Mark(static_cast<char32_t>(pair & 0xFFFFFFFF), kMovesInNfc);
  }
  for (char32_t c = kVowel; c < kVowel + kVowels; ++c) Mark(c, kMovesInNfc);
  for (char32_t c = kTail + 1; c < kTail + kTails; ++c) {
    Mark(c, kMovesInNfc);
  }
  for (char32_t c = kSyllables; c < kSyllables + kSyllableCount; ++c) {
    Mark(c, kMovesInNfd);
  }
  for (const auto& [c, lower] : lower_) Mark(c, kHasLower);
  Mark(0x130, kHasLower);
}

uint8_t UnicodeData::CombiningClass(char32_t c) const {
  const auto it = classes_.find(c);
  return it == classes_.end() ? 0 : it->second;
}

std::pair<char32_t, char32_t> UnicodeData::Decompose(char32_t c) const {
  if (c >= kSyllables && c < kSyllables + kSyllableCount) {
    const char32_t index = c - kSyllables, tail = index % kTails;
    if (tail != 0) return {c - tail, kTail + tail};
    return {kLead + index / (kVowels * kTails),
            kVowel + index / kTails % kVowels};
  }
  const auto it = parts_.find(c);
  return it == parts_.end() ? std::pair<char32_t, char32_t>(c, 0)
                            : it->second;
}

char32_t UnicodeData::Compose(char32_t a, char32_t b) const {
  if (a >= kLead && a < kLead + kLeads && b >= kVowel &&
      b < kVowel + kVowels) {
    return kSyllables + ((a - kLead) * kVowels + (b - kVowel)) * kTails;
  }
  if (a >= kSyllables && a < kSyllables + kSyllableCount &&
      (a - kSyllables) % kTails == 0 && b > kTail && b < kTail + kTails) {
    return a + (b - kTail);
  }
  const auto it = composed_.find(Pair(a, b));
  return it == composed_.end() ? 0 : it->second;
}

char32_t UnicodeData::Lower(char32_t c) const {
  const auto it = lower_.find(c);
  return it == lower_.end() ? c : it->second;
}

}  // namespace motet::model
