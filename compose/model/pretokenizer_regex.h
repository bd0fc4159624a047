// SPDX-License-Identifier: Apache-2.0
// The regular expressions of tokenizer.json. They are written for Oniguruma
// (what the stock library uses) and run here by PCRE2: patterns are taken
// over construct by construct, and one that the two would read differently
// is refused by name.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;
struct pcre2_real_jit_stack_8;

namespace motet::model {

// Immutable, shared by threads.
class Regex {
 public:
  static absl::StatusOr<std::unique_ptr<Regex>> Compile(
      absl::string_view pattern);
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

 private:
  friend class Matcher;
  explicit Regex(pcre2_real_code_8* code) : code_(code) {}
  pcre2_real_code_8* code_;
};

// One thread's working memory for any Regex.
class Matcher {
 public:
  Matcher();
  ~Matcher();
  Matcher(const Matcher&) = delete;
  Matcher& operator=(const Matcher&) = delete;
  // kTooMuch: the pattern asks for more work than a fixed share of the text.
  enum class Result { kFound, kNone, kTooMuch };
  // The first match at or after `from` in valid UTF-8.
  Result Find(const Regex& regex, absl::string_view text, size_t from,
              size_t& begin, size_t& end);

 private:
  pcre2_real_match_data_8* data_;
  pcre2_real_match_context_8* context_;
  pcre2_real_jit_stack_8* stack_;
};

}  // namespace motet::model
