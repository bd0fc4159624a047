// SPDX-License-Identifier: Apache-2.0
// Plain files as documents: what is text is kept, the rest is passed over.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace motet::coordinator {

struct TextFileOptions {
  int64_t max_bytes = 32 << 10;
  bool pod = false;  // only Perl's plain old documentation
};
// Empty when the bytes are not UTF-8 text, hold a NUL, or are too short to
// be a document (64 bytes).
std::string TextOf(std::string bytes, const TextFileOptions& options);
// An order that depends on the names alone, so that a prefix is a fair
// sample of folders.
void ShuffleByName(std::vector<std::string>& files);

}  // namespace motet::coordinator
