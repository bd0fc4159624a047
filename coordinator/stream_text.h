// SPDX-License-Identifier: Apache-2.0
// Token bytes into text that may be shown: never half a UTF-8 character, and
// never the beginning of a stop string that may still complete.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace motet::coordinator {

class StreamText {
 public:
  explicit StreamText(std::vector<std::string> stops);
  // Takes a token's bytes; returns what may be shown now.
  std::string Add(absl::string_view bytes);
  // True once a stop string has been met; nothing after it is shown.
  bool stopped() const { return stopped_; }
  // What was held back, at the end; broken characters become U+FFFD.
  std::string Flush();

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

// Invalid bytes become U+FFFD each.
std::string ValidUtf8(absl::string_view bytes);

}  // namespace motet::coordinator
