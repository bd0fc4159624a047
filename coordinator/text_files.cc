// SPDX-License-Identifier: Apache-2.0
#include "coordinator/text_files.h"

#include <algorithm>
#include <utility>

#include "absl/strings/string_view.h"

namespace motet::coordinator {
namespace {

bool IsUtf8Text(absl::string_view s) {
  for (size_t i = 0; i < s.size();) {
    const unsigned char c = s[i];
    if (c == 0) return false;
    int more = c < 0x80 ? 0 : c >= 0xC2 && c < 0xE0 ? 1 : c >= 0xE0 && c < 0xF0
                          ? 2 : c >= 0xF0 && c < 0xF5 ? 3 : -1;
    if (more < 0 || i + more >= s.size() + (more == 0)) return false;
    for (int k = 1; k <= more; ++k) {
      if ((static_cast<unsigned char>(s[i + k]) & 0xC0) != 0x80) return false;
    }
    i += 1 + more;
  }
  return true;
}

// Lines from a "=word" at a line's start to the line "=cut".
std::string Pod(absl::string_view text) {
  std::string out;
  bool inside = false;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    const absl::string_view line = text.substr(0, end);
    text.remove_prefix(end);
    const bool command = line.size() > 1 && line[0] == '=' && line[1] >= 'a' &&
                         line[1] <= 'z';
    if (command) inside = line.substr(0, 4) != "=cut";
    if (inside) out.append(line.data(), line.size());
  }
  return out;
}

uint64_t Fnv(absl::string_view text) {
  uint64_t h = 14695981039346656037ull;
  for (unsigned char c : text) h = (h ^ c) * 1099511628211ull;
  return h ^ (h >> 29);
}

}  // namespace

std::string TextOf(std::string bytes, const TextFileOptions& options) {
  if (!IsUtf8Text(bytes)) return "";
  std::string text = options.pod ? Pod(bytes) : std::move(bytes);
  if (static_cast<int64_t>(text.size()) > options.max_bytes) {
    const size_t cut = text.rfind('\n', options.max_bytes);
    if (cut == std::string::npos) return "";  // one endless line: data
    text.resize(cut + 1);
  }
  return text.size() < 64 ? "" : text;
}

void ShuffleByName(std::vector<std::string>& files) {
  std::sort(files.begin(), files.end(),
            [](const std::string& a, const std::string& b) {
              return std::make_pair(Fnv(a), a) < std::make_pair(Fnv(b), b);
            });
}

}  // namespace motet::coordinator
