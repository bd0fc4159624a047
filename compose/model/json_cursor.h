// SPDX-License-Identifier: Apache-2.0
// A walk through a JSON text without building it, for tables of so many
// entries that a tree of them costs more than the model's first token.
// Strings are as strict as nlohmann's (UTF-8, escapes, no control
// characters); what Skip() passes over is only delimited, not checked.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "absl/strings/string_view.h"

namespace motet::model {

// Every method leaves out white space before what it reads; after one has
// returned false the place is anywhere.
class JsonCursor {
 public:
  // `text` must outlive the cursor and the views that it gives.
  explicit JsonCursor(absl::string_view text) : text_(text) {}

  size_t at() const { return at_; }
  void Return(size_t at) { at_ = at; }
  // The next byte, 0 at the end.
  char Peek() {
    while (at_ < text_.size() && IsSpace(text_[at_])) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  // True and behind it when the next byte is `c`, which is not 0.
  bool Take(char c) {
    if (Peek() != c) return false;
    ++at_;
    return true;
  }
  // False when no well-formed string is next. The view lies in the text, or,
  // where there are escapes, in `unescaped`.
  bool String(std::deque<std::string>& unescaped, absl::string_view& value);
  // False when what is next is no whole number from 0 to below 2^32, or has
  // anything but the end of a value behind it.
  bool Whole(uint32_t& value);
  // Behind the next value. False when none ends before the text does.
  bool Skip();

 private:
  static bool IsSpace(char c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
  }
  static bool Ends(char c) {
    return c == ',' || c == ']' || c == '}' || IsSpace(c);
  }
  bool SkipString();
  bool Unescape(absl::string_view raw, std::string& to);

  absl::string_view text_;
  size_t at_ = 0;
};

}  // namespace motet::model
