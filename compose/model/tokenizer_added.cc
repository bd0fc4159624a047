// SPDX-License-Identifier: Apache-2.0
#include "compose/model/tokenizer_added.h"

#include <algorithm>

#include "compose/model/unicode.h"
#include "compose/model/unicode_data.h"

namespace motet::model {
namespace {

// Where the character that ends at `end` > 0 begins; `end` when what stands
// there is no UTF-8.
size_t CharacterBefore(absl::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) {
    --at;
  }
  if (ValidUtf8Prefix(text.substr(at, end - at)) != end - at) return end;
  size_t after = at;
  NextCodePoint(text, after);
  return after == end ? at : end;
}

// Where the white space that ends text[0, end) begins.
size_t SpaceBefore(absl::string_view text, size_t end) {
  while (end > 0) {
    const size_t begin = CharacterBefore(text, end);
    size_t at = begin;
    if (begin == end || !IsWhiteSpace(NextCodePoint(text, at))) break;
    end = begin;
  }
  return end;
}

bool WordBefore(absl::string_view text, size_t end) {
  if (end == 0) return false;
  const size_t begin = CharacterBefore(text, end);
  size_t at = begin;
  return begin < end && (UnicodeData::Get().Properties(
                             NextCodePoint(text, at)) & kWord) != 0;
}

bool WordAfter(absl::string_view text, size_t begin) {
  if (ValidUtf8Prefix(text.substr(begin, 4)) == 0) return false;
  return (UnicodeData::Get().Properties(NextCodePoint(text, begin)) &
          kWord) != 0;
}

size_t SpaceAfter(absl::string_view text, size_t begin) {
  const size_t valid = begin + ValidUtf8Prefix(text.substr(begin));
  size_t end = begin;
  while (end < valid) {
    size_t at = end;
    if (!IsWhiteSpace(NextCodePoint(text, at))) break;
    end = at;
  }
  return end;
}

}  // namespace

AddedTokens::AddedTokens(const std::vector<AddedToken>& tokens,
                         bool normalized, const Normalizer& normalizer)
    : nodes_(1) {
  for (const AddedToken& token : tokens) {
    if (token.normalized != normalized) continue;
    std::string content = token.content;
    if (normalized) normalizer.Normalize(content);
    if (content.empty()) continue;  // normalized away: matches nothing
    int32_t node = 0;
    for (const unsigned char byte : content) {
      int32_t child = Child(node, byte);
      if (child < 0) {
        child = static_cast<int32_t>(nodes_.size());
        auto& next = nodes_[node].next;
        next.insert(std::lower_bound(next.begin(), next.end(),
                                     std::pair(byte, int32_t{0})),
                    {byte, child});
        nodes_.emplace_back();
      }
      node = child;
    }
    nodes_[node].token = static_cast<int32_t>(tokens_.size());
    tokens_.push_back(token);
  }
  for (int b = 0; b < 256; ++b) {
    first_[b] = Child(0, static_cast<unsigned char>(b));
  }
}

int32_t AddedTokens::Child(int32_t node, unsigned char byte) const {
  const auto& next = nodes_[node].next;
  const auto it =
      std::lower_bound(next.begin(), next.end(), std::pair(byte, int32_t{0}));
  return it != next.end() && it->first == byte ? it->second : -1;
}

void AddedTokens::Split(absl::string_view text,
                        const std::function<void(absl::string_view)>& between,
                        const std::function<void(int32_t)>& token) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    int32_t node = first_[static_cast<unsigned char>(text[at])];
    int32_t found = -1;
    size_t found_end = 0;
    for (size_t i = at + 1; node >= 0; ++i) {
      if (nodes_[node].token >= 0) {
        found = nodes_[node].token;
        found_end = i;
      }
      if (i >= text.size()) break;
      node = Child(node, static_cast<unsigned char>(text[i]));
    }
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& t = tokens_[found];
    if (t.single_word && (WordBefore(text, at) || WordAfter(text, found_end))) {
      at = found_end;
      continue;
    }
    size_t begin = at, end = found_end;
    if (t.lstrip) begin = std::max(done, SpaceBefore(text, begin));
    if (t.rstrip) end = SpaceAfter(text, end);
    if (done < begin) between(text.substr(done, begin - done));
    token(t.id);
    done = end;
    // As in the stock library: white space that rstrip took may still hold
    // the next token.
    at = found_end;
  }
  if (done < text.size()) between(text.substr(done));
}

}  // namespace motet::model
