// SPDX-License-Identifier: Apache-2.0
#include "coordinator/usage_message.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace motet::coordinator {
namespace {

std::string Says(const std::string& where, const std::string& got,
                 const std::string& want) {
  return absl::StrCat("[", where, "] got ", got, ", want ", want);
}

// Splits "BEFORE mark AFTER"; false where there is no mark.
bool Split(const std::string& text, const std::string& mark,
           std::string* before, std::string* after) {
  const size_t at = text.find(mark);
  if (at == std::string::npos) return false;
  *before = text.substr(0, at);
  *after = text.substr(at + mark.size());
  return true;
}

// "--output: xml not in {text,json}", "--threads: Value -1 not in range 0 to
// 4"; a range without an end reads "0.000000 to 17976…".
std::string OfValue(const std::string& text) {
  std::string where, what, got, want;
  if (!Split(text, ": ", &where, &what)) return text;
  if (Split(what, " not in {", &got, &want) && absl::EndsWith(want, "}")) {
    want.pop_back();
    return Says(where, got,
                absl::StrCat("one of ",
                             absl::StrReplaceAll(want, {{",", ", "}})));
  }
  if (Split(what, " not in range ", &got, &want)) {
    got = absl::StrReplaceAll(got, {{"Value ", ""}});
    constexpr size_t kSensible = 60;
    if (want.size() > kSensible) {
      want = got == "0" ? "a number above 0" : "0 or more";
    }
    return Says(where, got, want);
  }
  return absl::StrCat("[", where, "] ", what);
}

}  // namespace

std::string UsageMessage(const std::string& command, const std::string& kind,
                         const std::string& text) {
  std::string a, b;
  if (kind == "ValidationError") return OfValue(text);
  if (kind == "ConversionError") {
    // "Could not convert: --max-tokens = abc"
    if (Split(text, "Could not convert: ", &a, &b)) {
      const std::string rest = b;
      if (Split(rest, " = ", &a, &b)) {
        return Says(a, absl::StrCat("\"", b, "\""), "a number");
      }
    }
  }
  if (kind == "RequiredError" && absl::EndsWith(text, " is required")) {
    Split(text, " is required", &a, &b);
    return Says(command, absl::StrCat("no ", a), "it");
  }
  // Of this kind the library gives another name.
  if (Split(text, " not expected: ", &a, &b)) {
    return Says(command, absl::StrCat("\"", b, "\""),
                "arguments that it knows");
  }
  if (kind == "ArgumentMismatch" && Split(text, ": ", &a, &b)) {
    const std::string where = a, rest = b;
    if (Split(rest, " required ", &a, &b) && absl::EndsWith(b, " missing")) {
      return Says(where, "no value",
                  absl::StrReplaceAll(b, {{" missing", ""}}));
    }
    return absl::StrCat("[", where, "] ", rest);
  }
  if (kind == "ExcludesError" && Split(text, " excludes ", &a, &b)) {
    return Says(a, absl::StrCat(b, " too"), "one of the two");
  }
  if (kind == "RequiresError" && Split(text, " requires ", &a, &b)) {
    return Says(a, absl::StrCat("no ", b), "both");
  }
  return text;
}

}  // namespace motet::coordinator
