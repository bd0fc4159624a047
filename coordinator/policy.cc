// SPDX-License-Identifier: Apache-2.0
#include "coordinator/policy.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/digest.h"
#include "proto/error.h"

namespace motet::coordinator {
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

PolicyGate::PolicyGate(const assemble::Served& model,
                       std::set<std::string> revoked)
    : model_(model), revoked_(std::move(revoked)) {}

absl::StatusOr<Admission> PolicyGate::Admit(
    const v1::ExpertSelection& selection, const std::string& purpose,
    const std::string& tenant, absl::Time now) const {
  const std::vector<assemble::ServedExpert>& experts = model_.experts;
  const auto bit = [](size_t i) { return math::ExpertMask{1} << i; };
  Admission admission;
  math::ExpertMask allowed = model_.All();
  for (size_t i = 0; i < experts.size(); ++i) {
    const bool revoked = revoked_.contains(experts[i].manifest_sha256);
    std::string reason =
        revoked ? "package revoked"
                : WithheldByTerms(experts[i].licence, purpose, tenant, now);
    if (reason.empty()) continue;
    if (experts[i].always) {
      return proto::Error(
          absl::StatusCode::kPermissionDenied, "policy",
          absl::StrCat("a composition whose base ", experts[i].id,
                       " is withheld (", reason, ")"),
          "a base that may answer", "compose on another base");
    }
    allowed &= ~bit(i);
    admission.withheld_.push_back({experts[i].id, std::move(reason)});
  }
  // What licence or policy forbids must not have left traces elsewhere in
  // the model (DESIGN 4.6).
  if (!admission.withheld_.empty() && !model_.exact_exclusion) {
    return proto::Error(
        absl::StatusCode::kPermissionDenied, "policy",
        absl::StrCat("a composition that excludes only by routing, and ",
                     admission.withheld_[0].id, " withheld (",
                     admission.withheld_[0].reason, ")"),
        "a composition with exact exclusion", "compose without that expert");
  }
  math::ExpertMask wanted = allowed;
  if (!selection.include().empty()) {
    MOTET_ASSIGN_OR_RETURN(
        const math::ExpertMask include,
        model_.Resolve(
            {selection.include().begin(), selection.include().end()}));
    for (size_t i = 0; i < experts.size(); ++i) {
      if ((include & bit(i)) == 0 || (allowed & bit(i)) != 0) continue;
      std::string reason;
      for (const Withheld& w : admission.withheld_) {
        if (w.id == experts[i].id) reason = w.reason;
      }
      return proto::Error(absl::StatusCode::kPermissionDenied, "policy",
                          absl::StrCat("a request that includes ",
                                       experts[i].id, " (", reason, ")"),
                          "experts that this query may use",
                          "leave it out of experts.include");
    }
    wanted &= include;
  }
  for (const std::string& name : selection.exclude()) {
    if (!model_.NamesAlways(name)) continue;
    return proto::Invalid("experts.exclude",
                          absl::StrCat("\"", name, "\", the public expert"),
                          "experts that an answer can do without",
                          "leave it out of experts.exclude");
  }
  MOTET_ASSIGN_OR_RETURN(
      const math::ExpertMask exclude,
      model_.Resolve(
          {selection.exclude().begin(), selection.exclude().end()}));
  admission.mask_ = (wanted & ~exclude) | model_.Always();
  if (admission.mask_ == 0 && !experts.empty()) {
    return proto::Invalid("experts",
                          "a selection that leaves no expert",
                          "at least one that answers",
                          "exclude fewer or include one");
  }
  if (selection.active() > 0) {
    MOTET_RETURN_IF_ERROR(model_.CheckActive(selection.active()));
    admission.active_ = static_cast<int32_t>(selection.active());
  }
  admission.experts_ = model_.Names(admission.mask_);
  std::string digests;
  for (size_t i = 0; i < experts.size(); ++i) {
    if ((admission.mask_ & bit(i)) == 0) continue;
    if (experts[i].manifest_sha256.empty()) return admission;
    absl::StrAppend(&digests, digests.empty() ? "" : "\n",
                    experts[i].manifest_sha256);
  }
  if (!digests.empty()) {
    admission.set_sha256_ = proto::Hex(proto::Sha256(digests));
  }
  return admission;
}

}  // namespace motet::coordinator
