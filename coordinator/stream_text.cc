// SPDX-License-Identifier: Apache-2.0
#include "coordinator/stream_text.h"

#include <algorithm>

namespace motet::coordinator {
namespace {

// Length of the character that begins at s[i], 0 when it is invalid, -1 when
// the text ends inside it.
int CharacterAt(absl::string_view s, size_t i) {
  const unsigned char c = s[i];
  const int length = c < 0x80                ? 1
                     : c >= 0xC2 && c < 0xE0 ? 2
                     : c >= 0xE0 && c < 0xF0 ? 3
                     : c >= 0xF0 && c < 0xF5 ? 4
                                             : 0;
  for (int k = 1; k < length; ++k) {
    if (i + k >= s.size()) return -1;
    const unsigned char d = s[i + k];
    // Overlong forms, surrogates and beyond U+10FFFF.
    const unsigned char low = k > 1       ? 0x80
                              : c == 0xE0 ? 0xA0
                              : c == 0xF0 ? 0x90
                                          : 0x80;
    const unsigned char high = k > 1       ? 0xBF
                               : c == 0xED ? 0x9F
                               : c == 0xF4 ? 0x8F
                                           : 0xBF;
    if (d < low || d > high) return 0;
  }
  return length;
}

constexpr char kReplacement[] = "\xEF\xBF\xBD";

// Bytes of s that end in whole characters; invalid ones count as whole.
size_t WholePrefix(absl::string_view s) {
  size_t i = 0;
  while (i < s.size()) {
    const int n = CharacterAt(s, i);
    if (n < 0) return i;
    i += n == 0 ? 1 : n;
  }
  return i;
}

}  // namespace

std::string ValidUtf8(absl::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size();) {
    const int n = CharacterAt(bytes, i);
    if (n > 0) {
      out.append(bytes.data() + i, n);
      i += n;
    } else {
      out.append(kReplacement);
      ++i;
    }
  }
  return out;
}

StreamText::StreamText(std::vector<std::string> stops)
    : stops_(std::move(stops)) {
  std::erase(stops_, std::string());
}

std::string StreamText::Add(absl::string_view bytes) {
  if (stopped_) return "";
  held_.append(bytes.data(), bytes.size());
  size_t cut = std::string::npos;
  for (const std::string& stop : stops_) {
    cut = std::min(cut, held_.find(stop));
  }
  if (cut != std::string::npos) {
    stopped_ = true;
    std::string shown = ValidUtf8(absl::string_view(held_).substr(0, cut));
    held_.clear();
    return shown;
  }
  size_t keep = 0;  // bytes at the end that may begin a stop string
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) keep = n;
    }
  }
  const size_t free =
      WholePrefix(absl::string_view(held_).substr(0, held_.size() - keep));
  std::string shown = ValidUtf8(absl::string_view(held_).substr(0, free));
  held_.erase(0, free);
  return shown;
}

std::string StreamText::Flush() {
  std::string shown = ValidUtf8(held_);
  held_.clear();
  return shown;
}

}  // namespace motet::coordinator
