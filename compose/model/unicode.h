// SPDX-License-Identifier: Apache-2.0
// The little of Unicode that a byte-level tokenizer needs: UTF-8, and the
// alphabet in which tokenizer.json spells bytes (GPT-2's bytes_to_unicode:
// printable Latin-1 stands for itself, the other bytes for U+0100 onwards).
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace motet::model {

// Bytes of the longest prefix that is valid UTF-8 (no surrogates, no
// overlong forms, nothing above U+10FFFF).
size_t ValidUtf8Prefix(absl::string_view text);
// The code point at `at` in valid UTF-8; moves `at` behind it.
char32_t NextCodePoint(absl::string_view text, size_t& at);
void AppendUtf8(char32_t code_point, std::string& to);
// Unicode's White_Space.
bool IsWhiteSpace(char32_t code_point);

// The code point that spells each byte.
const std::array<char32_t, 256>& ByteAlphabet();
// The byte that a code point spells, or -1.
int ByteOf(char32_t code_point);
// Bytes -> their spelling, in UTF-8.
std::string SpellBytes(absl::string_view bytes);
// Spelling -> bytes; text that has other characters stands for itself.
std::string UnspellBytes(absl::string_view spelling);

}  // namespace motet::model
