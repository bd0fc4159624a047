// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/freeze.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"

namespace motet::learn {

bool Matches(absl::string_view pattern, absl::string_view name) {
  // After a mismatch the last '*' takes one character more; earlier ones
  // need not be tried again.
  size_t p = 0, n = 0, star = absl::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() &&
               (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != absl::string_view::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

absl::StatusOr<std::vector<Parameter>> WithoutFrozen(
    std::vector<Parameter> parameters,
    const std::vector<std::string>& patterns) {
  std::vector<std::string> idle;
  for (const std::string& pattern : patterns) {
    const bool used = std::any_of(
        parameters.begin(), parameters.end(),
        [&](const Parameter& p) { return Matches(pattern, p.name); });
    if (!used) idle.push_back(absl::StrCat("\"", pattern, "\""));
  }
  const std::string some =
      parameters.empty() ? "" : absl::StrCat("\"", parameters[0].name, "\"");
  if (!idle.empty()) {
    return proto::Invalid(
        "freeze", absl::StrCat(absl::StrJoin(idle, ", "), ", which ",
                               "matches no trained tensor"),
        absl::StrCat("patterns of names like ", some),
        "correct the pattern; * stands for any characters");
  }
  std::erase_if(parameters, [&](const Parameter& p) {
    return std::any_of(patterns.begin(), patterns.end(),
                       [&](const std::string& pattern) {
                         return Matches(pattern, p.name);
                       });
  });
  if (parameters.empty()) {
    return proto::Invalid("freeze", "patterns that match every tensor",
                          absl::StrCat("at least one to train, like ", some),
                          "freeze less");
  }
  return parameters;
}

}  // namespace motet::learn
