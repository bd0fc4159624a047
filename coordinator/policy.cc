// SPDX-License-Identifier: Apache-2.0
#include "coordinator/policy.h"

#include "absl/strings/str_cat.h"
#include "proto/digest.h"
#include "proto/error.h"

namespace motet::coordinator {

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
