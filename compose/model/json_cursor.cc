// SPDX-License-Identifier: Apache-2.0
#include "compose/model/json_cursor.h"

#include <utility>

#include "compose/model/unicode.h"

namespace motet::model {
namespace {

// Four hexadecimal digits; false when there are none.
bool Hex(absl::string_view digits, char32_t& value) {
  if (digits.size() < 4) return false;
  value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = digits[i];
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return false;
    value = value << 4 | static_cast<char32_t>(digit);
  }
  return true;
}

}  // namespace

bool JsonCursor::String(std::deque<std::string>& unescaped,
                        absl::string_view& value) {
  if (!Take('"')) return false;
  // Locals: a tokenizer has millions of these bytes.
  const char* const begin = text_.data() + at_;
  const char* const end = text_.data() + text_.size();
  const char* p = begin;
  signed char all = 0;  // negative when a byte beyond ASCII was among them
  bool escaped = false;
  for (; p < end && *p != '"'; ++p) {
    all |= static_cast<signed char>(*p);
    if (static_cast<unsigned char>(*p) < 0x20) return false;
    if (*p == '\\') {
      escaped = true;
      if (++p == end) return false;  // it does not end the string
      all |= static_cast<signed char>(*p);
    }
  }
  if (p == end) return false;
  value = absl::string_view(begin, static_cast<size_t>(p - begin));
  at_ = static_cast<size_t>(p - text_.data()) + 1;
  if (all < 0 && ValidUtf8Prefix(value) != value.size()) return false;
  if (!escaped) return true;
  std::string plain;
  if (!Unescape(value, plain)) return false;
  value = unescaped.emplace_back(std::move(plain));
  return true;
}

bool JsonCursor::Unescape(absl::string_view raw, std::string& to) {
  constexpr absl::string_view kNames = "\"\\/bfnrt", kBytes = "\"\\/\b\f\n\r\t";
  for (size_t i = 0; i < raw.size(); ++i) {
    if (raw[i] != '\\') {
      to += raw[i];
      continue;
    }
    if (++i == raw.size()) return false;
    if (const size_t named = kNames.find(raw[i]);
        named != absl::string_view::npos) {
      to += kBytes[named];
      continue;
    }
    char32_t c = 0, low = 0;
    if (raw[i] != 'u' || !Hex(raw.substr(i + 1), c)) return false;
    i += 4;
    if (c >= 0xD800 && c < 0xE000) {  // half of a pair
      if (c >= 0xDC00 || raw.substr(i + 1, 2) != "\\u" ||
          !Hex(raw.substr(i + 3), low) || low < 0xDC00 || low >= 0xE000) {
        return false;
      }
      i += 6;
      c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    }
    AppendUtf8(c, to);
  }
  return true;
}

bool JsonCursor::Whole(uint32_t& value) {
  Peek();
  const size_t begin = at_;
  uint64_t sum = 0;
  for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
    sum = 10 * sum + static_cast<uint64_t>(text_[at_] - '0');
    if (sum > UINT32_MAX) return false;
  }
  const size_t digits = at_ - begin;
  if (digits == 0 || (digits > 1 && text_[begin] == '0')) return false;
  if (at_ == text_.size() || !Ends(text_[at_])) return false;
  value = static_cast<uint32_t>(sum);
  return true;
}

bool JsonCursor::SkipString() {
  for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_) {
    if (text_[at_] == '\\') ++at_;
  }
  if (at_ >= text_.size()) return false;
  ++at_;
  return true;
}

bool JsonCursor::Skip() {
  size_t depth = 0;
  do {
    const char c = Peek();
    if (at_ == text_.size()) return false;
    if (c == '"') {
      if (!SkipString()) return false;
    } else if (c == '{' || c == '[') {
      ++depth;
      ++at_;
    } else if (c == '}' || c == ']') {
      if (depth == 0) return false;
      --depth;
      ++at_;
    } else if (c == ',' || c == ':') {
      if (depth == 0) return false;
      ++at_;
    } else {
      while (at_ < text_.size() && !Ends(text_[at_]) &&
             text_[at_] != '"') {
        ++at_;
      }
    }
  } while (depth > 0);
  return true;
}

}  // namespace motet::model
