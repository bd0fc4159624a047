// SPDX-License-Identifier: Apache-2.0
#include "compose/model/unicode.h"

#include <string.h>

namespace motet::model {
namespace {

// Length of the valid sequence at `p`, 0 when there is none.
size_t SequenceLength(const unsigned char* p, size_t left) {
  const unsigned char b = p[0];
  if (b < 0x80) return 1;
  const auto continues = [&](size_t i, unsigned char low, unsigned char high) {
    return i < left && p[i] >= low && p[i] <= high;
  };
  if (b >= 0xC2 && b <= 0xDF) return continues(1, 0x80, 0xBF) ? 2 : 0;
  if (b >= 0xE0 && b <= 0xEF) {
    const unsigned char low = b == 0xE0 ? 0xA0 : 0x80;
    const unsigned char high = b == 0xED ? 0x9F : 0xBF;
    return continues(1, low, high) && continues(2, 0x80, 0xBF) ? 3 : 0;
  }
  if (b >= 0xF0 && b <= 0xF4) {
    const unsigned char low = b == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = b == 0xF4 ? 0x8F : 0xBF;
    return continues(1, low, high) && continues(2, 0x80, 0xBF) &&
                   continues(3, 0x80, 0xBF)
               ? 4
               : 0;
  }
  return 0;
}

struct Alphabet {
  std::array<char32_t, 256> of_byte;
  std::array<int16_t, 512> of_point;
  Alphabet() {
    of_point.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool itself = (b >= 0x21 && b <= 0x7E) ||
                          (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      of_byte[b] = itself ? static_cast<char32_t>(b) : next++;
      of_point[of_byte[b]] = static_cast<int16_t>(b);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

size_t ValidUtf8Prefix(absl::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  size_t i = 0;
  while (i < text.size()) {
    uint64_t eight;
    if (text.size() - i >= 8 &&
        (memcpy(&eight, p + i, 8), (eight & 0x8080808080808080u) == 0)) {
      i += 8;
      continue;
    }
    const size_t n = SequenceLength(p + i, text.size() - i);
    if (n == 0) break;
    i += n;
  }
  return i;
}

char32_t NextCodePoint(absl::string_view text, size_t& at) {
  const auto byte = [&](size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[i]));
  };
  const char32_t b = byte(at);
  if (b < 0x80) {
    at += 1;
    return b;
  }
  if (b < 0xE0) {
    at += 2;
    return (b & 0x1F) << 6 | (byte(at - 1) & 0x3F);
  }
  if (b < 0xF0) {
    at += 3;
    return (b & 0x0F) << 12 | (byte(at - 2) & 0x3F) << 6 |
           (byte(at - 1) & 0x3F);
  }
  at += 4;
  return (b & 0x07) << 18 | (byte(at - 3) & 0x3F) << 12 |
         (byte(at - 2) & 0x3F) << 6 | (byte(at - 1) & 0x3F);
}

void AppendUtf8(char32_t c, std::string& to) {
  const auto put = [&](char32_t b) { to += static_cast<char>(b); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

const std::array<char32_t, 256>& ByteAlphabet() {
  return TheAlphabet().of_byte;
}

int ByteOf(char32_t c) { return c < 512 ? TheAlphabet().of_point[c] : -1; }

std::string SpellBytes(absl::string_view bytes) {
  std::string spelling;
  for (const unsigned char b : bytes) {
    AppendUtf8(ByteAlphabet()[b], spelling);
  }
  return spelling;
}

std::string UnspellBytes(absl::string_view spelling) {
  if (ValidUtf8Prefix(spelling) != spelling.size()) {
    return std::string(spelling);
  }
  const std::array<int16_t, 512>& byte_of = TheAlphabet().of_point;
  std::string bytes(spelling.size(), '\0');
  size_t count = 0;
  for (size_t at = 0; at < spelling.size();) {
    const char32_t c = NextCodePoint(spelling, at);
    if (c >= byte_of.size() || byte_of[c] < 0) return std::string(spelling);
    bytes[count++] = static_cast<char>(byte_of[c]);
  }
  bytes.resize(count);
  return bytes;
}

}  // namespace motet::model
