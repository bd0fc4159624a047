// SPDX-License-Identifier: Apache-2.0
#include "coordinator/text_files.h"

#include <algorithm>
#include <utility>

#include "absl/strings/string_view.h"
#include "coordinator/stream_text.h"

namespace motet::coordinator {
namespace {

bool IsUtf8Text(const std::string& s) {
  return s.find('\0') == std::string::npos && ValidUtf8(s) == s;
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
    const size_t cut =
        options.max_bytes < 1 ? std::string::npos
                              : text.rfind('\n', options.max_bytes - 1);
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
