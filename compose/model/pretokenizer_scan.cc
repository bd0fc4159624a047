// SPDX-License-Identifier: Apache-2.0
#include "compose/model/pretokenizer_scan.h"

#include <cstdint>

#include "compose/model/unicode.h"
#include "compose/model/unicode_data.h"

namespace motet::model {

const char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)"
    R"(|\s+(?!\S)|\s+)";

namespace {

constexpr char kCl100kPattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwenPattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr uint16_t kKinds = kLetter | kNumber | kSpace;

bool IsLineEnd(char c) { return c == '\r' || c == '\n'; }

class Scanner {
 public:
  Scanner(absl::string_view text, std::vector<absl::string_view>& words)
      : text_(text), words_(words), data_(UnicodeData::Get()) {}

  void Gpt2() {
    while (at_ < text_.size()) {
      if (const size_t n = Contraction(/*any_case=*/false)) {
        Push(at_ + n);
        continue;
      }
      size_t next, kind = Kind(at_, next);
      if (text_[at_] == ' ' && next < text_.size()) {
        size_t after;
        const uint16_t second = Kind(next, after);
        if (second != kSpace) {
          kind = second;
          next = after;
        }
      }
      Push(kind == kSpace ? Spaces() : Run(kind, next));
    }
  }

  void Cl100k(int digits) {
    while (at_ < text_.size()) {
      if (const size_t n = Contraction(/*any_case=*/true)) {
        Push(at_ + n);
        continue;
      }
      size_t next;
      uint16_t kind = Kind(at_, next);
      if (kind == kLetter) {
        Push(Run(kLetter, next));
        continue;
      }
      if (kind == kNumber) {
        for (int i = 1; i < digits && next < text_.size(); ++i) {
          size_t after;
          if (Kind(next, after) != kNumber) break;
          next = after;
        }
        Push(next);
        continue;
      }
      if (next < text_.size()) {
        size_t after;
        const uint16_t second = Kind(next, after);
        if (second == kLetter && !IsLineEnd(text_[at_])) {
          Push(Run(kLetter, after));
          continue;
        }
        if (second == 0 && text_[at_] == ' ') {
          kind = 0;
          next = after;
        }
      }
      if (kind == 0) {
        size_t end = Run(0, next);
        while (end < text_.size() && IsLineEnd(text_[end])) ++end;
        Push(end);
      } else {
        PushSpacesAndLines();
      }
    }
  }

  void Digits(bool runs) {
    size_t at = 0;
    bool numeric = false;
    while (at < text_.size()) {
      size_t next;
      const bool now = Properties(at, next) & kNumeric;
      if (at > at_ && (now != numeric || (now && !runs))) Push(at);
      numeric = now;
      at = next;
    }
    if (at_ < at) Push(at);
  }

  void Bert() {
    size_t at = 0;
    while (at < text_.size()) {
      size_t next;
      const uint16_t properties = Properties(at, next);
      if (properties & (kSpace | kPunctuation)) {
        if (at_ < at) Push(at);
        if (properties & kSpace) {
          at_ = next;
        } else {
          Push(next);
        }
      }
      at = next;
    }
    if (at_ < at) Push(at);
  }

 private:
  // Of the character at `at`; `next` is where the following one begins.
  uint16_t Properties(size_t at, size_t& next) const {
    next = at;
    const unsigned char byte = text_[at];
    if (byte < 0x80) {
      ++next;
      return data_.Properties(byte);
    }
    return data_.Properties(NextCodePoint(text_, next));
  }
  // kLetter, kNumber, kSpace or 0.
  uint16_t Kind(size_t at, size_t& next) const {
    return Properties(at, next) & kKinds;
  }
  // The end of the characters of one kind that go on at `at`.
  size_t Run(uint16_t kind, size_t at) const {
    size_t next;
    while (at < text_.size() && Kind(at, next) == kind) at = next;
    return at;
  }
  // \s+(?!\S)|\s+ at white space: its last character is left to a word that
  // follows.
  size_t Spaces() const {
    size_t last = at_, at = at_, next;
    while (at < text_.size() && Kind(at, next) == kSpace) {
      last = at;
      at = next;
    }
    return at < text_.size() && last > at_ ? last : at;
  }
  // \s*[\r\n]+ before these.
  void PushSpacesAndLines() {
    size_t at = at_, next, lines = at_;
    while (at < text_.size() && Kind(at, next) == kSpace) {
      if (IsLineEnd(text_[at])) lines = next;
      at = next;
    }
    Push(lines > at_ ? lines : Spaces());
  }
  // Bytes of 's 't 're 've 'm 'll 'd here, 0 when there is none.
  size_t Contraction(bool any_case) const {
    if (text_[at_] != '\'') return 0;
    const auto letter = [&](size_t i) {
      if (at_ + i >= text_.size()) return '\0';
      const char c = text_[at_ + i];
      return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    };
    const char a = letter(1), b = letter(2);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' || a == 'v') && b == 'e') return 3;
    if (a == 'l' && b == 'l') return 3;
    // The long s is an s in another case.
    if (any_case && a == '\xC5' && b == '\xBF') return 3;
    return 0;
  }
  void Push(size_t end) {
    words_.push_back(text_.substr(at_, end - at_));
    at_ = end;
  }

  const absl::string_view text_;
  std::vector<absl::string_view>& words_;
  const UnicodeData& data_;
  size_t at_ = 0;  // where the next word begins
};

}  // namespace

Scan ScanOfPattern(absl::string_view pattern) {
  if (pattern == kGpt2Pattern) return Scan::kGpt2;
  if (pattern == kCl100kPattern) return Scan::kCl100k;
  if (pattern == kQwenPattern) return Scan::kQwen;
  return Scan::kNone;
}

void ScanWords(Scan scan, absl::string_view text,
               std::vector<absl::string_view>& words) {
  Scanner scanner(text, words);
  switch (scan) {
    case Scan::kNone:
      if (!text.empty()) words.push_back(text);
      break;
    case Scan::kGpt2:
      scanner.Gpt2();
      break;
    case Scan::kCl100k:
      scanner.Cl100k(3);
      break;
    case Scan::kQwen:
      scanner.Cl100k(1);
      break;
    case Scan::kDigit:
      scanner.Digits(/*runs=*/false);
      break;
    case Scan::kDigits:
      scanner.Digits(/*runs=*/true);
      break;
    case Scan::kBert:
      scanner.Bert();
      break;
  }
}

}  // namespace motet::model
