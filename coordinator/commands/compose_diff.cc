// SPDX-License-Identifier: Apache-2.0
// What a plan changes, for people and programs.
#include <cstdio>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/assemble/verify.h"
#include "compose/package/manifest.h"
#include "coordinator/commands/compose_parts.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

using nlohmann::ordered_json;

// Weights of a package that lies here; a size for a table, so not verified.
std::optional<int64_t> WeightBytes(const std::string& folder) {
  const auto text =
      proto::ReadFile(folder + "/manifest.json", proto::kMaxManifestBytes);
  if (!text.ok()) return std::nullopt;
  const auto manifest = package::ParseManifest(*text);
  if (!manifest.ok()) return std::nullopt;
  for (const v1::FileDigest& file : manifest->files()) {
    if (file.path() == assemble::WeightsFile(*manifest)) {
      return static_cast<int64_t>(file.size_bytes());
    }
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<std::optional<assemble::PlanDiff>> DiffOf(
    const ComposeSession& session, const assemble::Plan& plan) {
  const Federation& federation = session.federation;
  const std::string name = plan.lock.name();
  const std::string path =
      federation.Path(absl::StrCat("compositions/", name, "/motet.lock"));
  if (!proto::Exists(path)) return std::nullopt;
  MOTET_ASSIGN_OR_RETURN(const v1::CompositionLock before,
                         ReadLock(federation, name));
  std::map<std::string, int64_t> bytes;
  const auto look = [&](const std::string& sha256, const std::string& folder) {
    if (const auto n = WeightBytes(folder)) bytes[sha256] = *n;
  };
  look(before.base().manifest_sha256(), federation.Path("base"));
  for (const v1::LockedExpert& e : before.experts()) {
    look(e.manifest_sha256(),
         federation.Path(absl::StrCat("packages/", e.manifest_sha256())));
  }
  for (const v1::LockedPilots& p : before.retriever().pilots()) {
    look(p.manifest_sha256(),
         federation.Path(absl::StrCat("packages/", p.manifest_sha256())));
  }
  return assemble::DiffPlan(before, plan, bytes);
}

void PrintDiff(const assemble::PlanDiff& diff, const std::string& name) {
  if (diff.same()) {
    absl::PrintF("\n%s is like that already: nothing would change\n", name);
    return;
  }
  absl::PrintF("\nchanges to %s\n", name);
  for (const v1::LockedExpert& e : diff.added) {
    absl::PrintF("  + %s\n", e.id());
  }
  for (const v1::LockedExpert& e : diff.removed) {
    absl::PrintF("  - %s\n", e.id());
  }
  for (const auto& c : diff.versions) {
    absl::PrintF("  ~ %s: %s -> %s\n", c.what, c.from, c.to);
  }
  for (const auto& c : diff.parameters) {
    absl::PrintF("  ~ %s: %s -> %s\n", c.what, c.from, c.to);
  }
  absl::PrintF(
      "  exclusion  %s\n",
      diff.exclusion_from == diff.exclusion_to
          ? absl::StrCat(diff.exclusion_to, ", as before")
          : absl::StrCat(diff.exclusion_from, " -> ", diff.exclusion_to));
  absl::PrintF("  bytes      %s -> %s in packages\n",
               diff.bytes_before == 0 ? "?" : BytesText(diff.bytes_before),
               BytesText(diff.bytes_after));
  for (const std::string& note : diff.notes) absl::PrintF("  - %s\n", note);
}

ordered_json DiffJson(const assemble::PlanDiff& diff) {
  const auto ids = [](const std::vector<v1::LockedExpert>& experts) {
    ordered_json list = ordered_json::array();
    for (const v1::LockedExpert& e : experts) list.push_back(e.id());
    return list;
  };
  const auto changes = [](const std::vector<assemble::PlanDiff::Change>& all) {
    ordered_json list = ordered_json::array();
    for (const auto& c : all) {
      list.push_back(
          ordered_json{{"what", c.what}, {"from", c.from}, {"to", c.to}});
    }
    return list;
  };
  const ordered_json bytes_before =
      diff.bytes_before == 0 ? ordered_json() : ordered_json(diff.bytes_before);
  return {{"added", ids(diff.added)},
          {"removed", ids(diff.removed)},
          {"versions", changes(diff.versions)},
          {"parameters", changes(diff.parameters)},
          {"exclusion_before", diff.exclusion_from},
          {"exclusion_after", diff.exclusion_to},
          {"bytes_before", bytes_before},
          {"bytes_after", diff.bytes_after},
          {"notes", diff.notes}};
}

}  // namespace motet::coordinator
