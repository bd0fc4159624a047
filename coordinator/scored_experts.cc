// SPDX-License-Identifier: Apache-2.0
#include "coordinator/scored_experts.h"

#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "compose/package/manifest_kinds.h"
#include "compose/package/manifest_licence.h"
#include "compose/package/manifest_retrieval.h"
#include "proto/digest.h"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

std::string OwnerOf(const std::string& id) {
  return id.substr(0, id.find('/'));
}

// Why the plan's owners may not score with it; "" when all of them may.
std::string Withheld(const v1::ExpertManifest& m,
                     const v1::TrainingPlan& plan) {
  const std::string owner = OwnerOf(m.id());
  if (plan.owners_size() == 0) {
    if (m.licence().forbidden_tenants_size() > 0) {
      return "licence forbids some tenants, and the plan is for every member";
    }
    return package::WithheldByTerms(m.licence(), package::kScoringPurpose, "",
                                    absl::Now());
  }
  for (const std::string& tenant : plan.owners()) {
    if (tenant == owner) continue;
    const std::string reason = package::WithheldByTerms(
        m.licence(), package::kScoringPurpose, tenant, absl::Now());
    if (!reason.empty()) return reason;
  }
  return "";
}

// Adapters that the registry has under the prefix and that are not revoked,
// the newest of each name, ascending by id.
absl::StatusOr<std::vector<std::string>> Adapters(registry::Client& client,
                                                  const std::string& prefix) {
  MOTET_ASSIGN_OR_RETURN(const std::vector<v1::PackageRecord> records,
                         client.List(prefix));
  const std::string file = package::WeightsFile(package::kEmbeddingAdapter);
  std::map<std::string, const v1::PackageRecord*> newest;
  for (const v1::PackageRecord& record : records) {
    const bool adapter =
        std::any_of(record.files().begin(), record.files().end(),
                    [&](const auto& f) { return f.path() == file; });
    if (!adapter || record.revoked()) continue;
    const v1::PackageRecord*& best =
        newest[record.id().substr(0, record.id().find('@'))];
    if (best == nullptr || best->log_index() < record.log_index()) {
      best = &record;
    }
  }
  std::vector<std::string> ids;
  for (const auto& [name, record] : newest) ids.push_back(record->id());
  return ids;
}

}  // namespace

absl::StatusOr<std::vector<LeftOut>> ResolveScored(
    const Federation& federation, registry::Client& client,
    const package::OpenedPackage& base, v1::TrainingPlan& plan) {
  const bool named = plan.scored_size() > 0;
  std::vector<std::string> ids;
  if (!named) {
    MOTET_ASSIGN_OR_RETURN(ids, Adapters(client, ""));
  }
  for (const v1::ScoredExpert& e : plan.scored()) {
    if (absl::StrContains(e.id(), '@')) {
      ids.push_back(e.id());
      continue;
    }
    MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> newest,
                           Adapters(client, absl::StrCat(e.id(), "@")));
    if (newest.empty()) {
      return proto::Error(absl::StatusCode::kNotFound, "experts",
                          absl::StrCat("\"", e.id(),
                                       "\", of which there is no "
                                       "adapter that may be used"),
                          "owner/name or owner/name@1.0.0",
                          "`motet expert list` shows what there is");
    }
    ids.push_back(newest[0]);
  }
  plan.clear_scored();
  std::vector<LeftOut> left_out;
  for (const std::string& id : ids) {
    MOTET_ASSIGN_OR_RETURN(const v1::PackageRecord record, client.Inspect(id));
    if (record.revoked()) {
      return proto::Error(absl::StatusCode::kFailedPrecondition, "experts",
                          absl::StrCat(id, ", which is revoked (",
                                       record.revoked_reason(), ")"),
                          "adapters that may be used",
                          "leave it out of the plan");
    }
    MOTET_ASSIGN_OR_RETURN(
        const std::string folder,
        LocalPackage(federation, client, proto::Hex(record.manifest_sha256())));
    MOTET_ASSIGN_OR_RETURN(
        const package::OpenedPackage opened,
        package::OpenPackage(folder, federation.authority_pem));
    if (opened.manifest.kind() != package::kEmbeddingAdapter) {
      return proto::Invalid(
          "experts",
          absl::StrCat(id, ", of kind \"", opened.manifest.kind(), "\""),
          "adapters, of kind \"embedding_adapter\"");
    }
    const absl::Status fits = package::CheckAgainstBase(opened, base);
    if (!fits.ok() && named) return fits;
    const std::string reason =
        fits.ok() ? Withheld(opened.manifest, plan) : "is of another base";
    if (!reason.empty()) {
      left_out.push_back({id, reason});
      continue;
    }
    v1::ScoredExpert* e = plan.add_scored();
    e->set_id(opened.manifest.id());
    e->set_manifest_sha256(opened.manifest_sha256);
    e->set_weights_sha256(package::WeightsSha256(opened.manifest));
  }
  if (plan.scored_size() > 0) return left_out;
  std::string reasons;
  for (const LeftOut& l : left_out) {
    absl::StrAppend(&reasons, "; ", l.id, ": ", l.reason);
  }
  return proto::Error(absl::StatusCode::kFailedPrecondition, "experts",
                      absl::StrCat("no adapter", reasons),
                      "at least one of this base that the owners may use",
                      "train adapters first, or see their licences");
}

}  // namespace motet::coordinator
