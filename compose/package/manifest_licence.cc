// SPDX-License-Identifier: Apache-2.0
#include "compose/package/manifest_licence.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace motet::package {
namespace {

template <typename List>
bool Holds(const List& list, const std::string& value) {
  for (const std::string& one : list) {
    if (absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(one), value)) {
      return true;
    }
  }
  return false;
}

// A date or time in UTC; false when it is neither.
bool ParseWhen(const std::string& text, absl::Time* time) {
  std::string error;
  // absl also reads "infinite-future".
  if (text.empty() || !absl::ascii_isdigit(text[0])) return false;
  return absl::ParseTime(absl::RFC3339_full, text, time, &error) ||
         absl::ParseTime("%Y-%m-%d", text, absl::UTCTimeZone(), time, &error);
}

}  // namespace

std::string WithheldByTerms(const v1::LicenceTerms& terms,
                            const std::string& purpose,
                            const std::string& tenant, absl::Time now) {
  const auto check = [](const char* what, const auto& forbidden,
                        const auto& allowed,
                        const std::string& said) -> std::string {
    // " advertising" is advertising.
    const std::string value(absl::StripAsciiWhitespace(said));
    if (!value.empty() && Holds(forbidden, value)) {
      return absl::StrCat("licence forbids ", what, " ", value);
    }
    if (allowed.empty() || Holds(allowed, value)) return "";
    return absl::StrCat("licence allows stated ", what, "s only, not ",
                        value.empty() ? "an unstated one" : value);
  };
  std::string reason = check("purpose", terms.forbidden_purposes(),
                             terms.allowed_purposes(), purpose);
  if (!reason.empty()) return reason;
  reason = check("tenant", terms.forbidden_tenants(), terms.allowed_tenants(),
                 tenant);
  if (!reason.empty()) return reason;
  absl::Time when;
  if (!terms.not_before().empty()) {
    if (!ParseWhen(terms.not_before(), &when)) return "licence date unreadable";
    if (now < when) {
      return absl::StrCat("licence begins on ", terms.not_before());
    }
  }
  if (!terms.not_after().empty()) {
    if (!ParseWhen(terms.not_after(), &when)) return "licence date unreadable";
    // A date without a time means to the end of that day.
    if (terms.not_after().find_first_of("Tt") == std::string::npos) {
      when += absl::Hours(24);
    }
    if (now >= when) {
      return absl::StrCat("licence ended on ", terms.not_after());
    }
  }
  return "";
}

}  // namespace motet::package
