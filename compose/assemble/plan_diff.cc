// SPDX-License-Identifier: Apache-2.0
// Parameters are compared by walking the lock's own messages, so that a
// method's section is in the difference as soon as it is in lock.proto.
#include "compose/assemble/plan_diff.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "google/protobuf/util/message_differencer.h"
#include "nlohmann/json.hpp"

namespace motet::assemble {
namespace {

using nlohmann::ordered_json;

// What is shown elsewhere, or is no choice of anybody's.
const std::set<std::string>& Elsewhere() {
  static const auto* const names = new std::set<std::string>{
      "schema_version", "name", "experts", "exclusion", "software"};
  return *names;
}

std::string NameOf(const std::string& id) { return id.substr(0, id.find('@')); }

std::string Text(const ordered_json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// One line for each library of pilots that comes, goes or changes.
void ComparePilots(const ordered_json& before, const ordered_json& after,
                   std::vector<PlanDiff::Change>& out) {
  std::map<std::string, std::pair<std::string, std::string>> names;
  const auto collect = [&](const ordered_json& list, bool first) {
    for (const ordered_json& one : list) {
      const auto id = one["id"].get<std::string>();
      const std::string text = absl::StrCat(
          id, " (", one["manifest_sha256"].get<std::string>().substr(0, 12),
          ")");
      auto& [from, to] = names[NameOf(id)];
      (first ? from : to) = text;
    }
  };
  if (before.is_array()) collect(before, true);
  if (after.is_array()) collect(after, false);
  for (auto& [name, change] : names) {
    auto& [from, to] = change;
    if (from == to) continue;
    out.push_back({absl::StrCat("pilots ", name), from.empty() ? "none" : from,
                   to.empty() ? "none" : to});
  }
}

void Compare(const ordered_json& before, const ordered_json& after,
             const std::string& prefix, std::vector<PlanDiff::Change>& out) {
  std::set<std::string> seen;
  const auto field = [&](const std::string& key) {
    if (prefix.empty() && Elsewhere().contains(key)) return;
    if (!seen.insert(key).second) return;
    const ordered_json none;
    const ordered_json& a = before.contains(key) ? before[key] : none;
    const ordered_json& b = after.contains(key) ? after[key] : none;
    if (a == b) return;
    const std::string name = absl::StrCat(prefix, key);
    if (name == "tuning.rows_sha256") return;  // apply makes it
    if (name == "retriever.pilots") {
      ComparePilots(a, b, out);
      return;
    }
    if (name == "ensemble.prior") {  // numbers that an apply learns anew
      if (a.is_null() != b.is_null()) {
        out.push_back({name, a.is_null() ? "none" : "learnt",
                       b.is_null() ? "none" : "learnt"});
      }
      return;
    }
    if (a.is_object() && b.is_object()) {
      Compare(a, b, name + ".", out);
      return;
    }
    const auto shown = [](const ordered_json& v) {
      return v.is_null() ? std::string("none") : Text(v);
    };
    out.push_back({name, shown(a), shown(b)});
  };
  if (before.is_object()) {
    for (const auto& [key, value] : before.items()) field(key);
  }
  if (after.is_object()) {
    for (const auto& [key, value] : after.items()) field(key);
  }
}

ordered_json Json(const v1::CompositionLock& lock) {
  return ordered_json::parse(WriteLock(lock));
}

const v1::LockedExpert* Find(const v1::CompositionLock& lock,
                             const std::string& name) {
  for (const v1::LockedExpert& e : lock.experts()) {
    if (NameOf(e.id()) == name) return &e;
  }
  return nullptr;
}

// Rows that were tuned in the presence of all experts change for everybody
// when the experts do; rows that each owner trained do not.
void RowNotes(const v1::CompositionLock& before,
              const v1::CompositionLock& after, PlanDiff& diff) {
  if (diff.added.empty() && diff.removed.empty() && diff.versions.empty()) {
    return;
  }
  const auto tuned = [](const v1::CompositionLock& lock) {
    return lock.has_router() && lock.router().rows() == "tuned";
  };
  if (tuned(before)) {
    std::vector<std::string> present;
    for (const v1::LockedExpert& e : before.experts()) {
      present.push_back(e.id());
    }
    diff.notes.push_back(
        absl::StrCat("router rows were tuned in the presence of ",
                     absl::StrJoin(present, ", "),
                     tuned(after) ? ": tune them again for the new set"
                                  : ": that tuning is not used any more"));
  } else if (after.has_router() && after.router().rows() == "solved") {
    diff.notes.push_back(
        "router rows: solved again from the statistics of "
        "those who are there now");
  } else if (after.has_router() && !tuned(after)) {
    diff.notes.push_back(absl::StrCat(
        "router rows: ", after.router().rows(),
        ", each of its own expert alone; those of the experts that stay do "
        "not change"));
  }
  if (TakesPilots(after.method())) {
    diff.notes.push_back(
        "pilots: as their owners published them; those of the experts that "
        "stay are not made again, and no index changes");
  }
  if (HoldsWeights(after)) {
    diff.notes.push_back("weights: made again of all models of the new set");
  }
}

}  // namespace

std::string TermsText(const v1::LicenceTerms& terms) {
  std::vector<std::string> parts;
  if (!terms.spdx().empty()) parts.push_back(terms.spdx());
  const auto list = [&](const char* what, const auto& values) {
    if (values.empty()) return;
    parts.push_back(absl::StrCat(what, " ", absl::StrJoin(values, ", ")));
  };
  list("not for", terms.forbidden_purposes());
  list("only for", terms.allowed_purposes());
  list("not for tenant", terms.forbidden_tenants());
  list("only for tenant", terms.allowed_tenants());
  if (!terms.not_before().empty()) {
    parts.push_back(absl::StrCat("from ", terms.not_before()));
  }
  if (!terms.not_after().empty()) {
    parts.push_back(absl::StrCat("until ", terms.not_after()));
  }
  return parts.empty() ? "no terms" : absl::StrJoin(parts, "; ");
}

PlanDiff DiffPlan(const v1::CompositionLock& before, const Plan& plan,
                  const std::map<std::string, int64_t>& bytes) {
  const v1::CompositionLock& after = plan.lock;
  PlanDiff diff;
  const auto terms_change = [&](const std::string& id,
                                const v1::LicenceTerms& from,
                                const v1::LicenceTerms& to) {
    if (google::protobuf::util::MessageDifferencer::Equals(from, to)) return;
    diff.notes.push_back(absl::StrCat("licence of ", id, ": ", TermsText(from),
                                      " -> ", TermsText(to)));
  };
  for (const v1::LockedExpert& e : after.experts()) {
    const v1::LockedExpert* old = Find(before, NameOf(e.id()));
    if (old == nullptr) {
      diff.added.push_back(e);
      diff.notes.push_back(absl::StrCat(
          "licence of ", e.id(), ", new here: ", TermsText(e.licence())));
    } else if (old->manifest_sha256() != e.manifest_sha256()) {
      diff.versions.push_back(
          {NameOf(e.id()),
           absl::StrCat(old->id(), " (", old->manifest_sha256().substr(0, 12),
                        ")"),
           absl::StrCat(e.id(), " (", e.manifest_sha256().substr(0, 12), ")")});
      terms_change(e.id(), old->licence(), e.licence());
    }
  }
  for (const v1::LockedExpert& e : before.experts()) {
    if (Find(after, NameOf(e.id())) != nullptr) continue;
    diff.removed.push_back(e);
    diff.notes.push_back(
        absl::StrCat("licence of ", e.id(),
                     ", no longer a condition: ", TermsText(e.licence())));
  }
  Compare(Json(before), Json(after), "", diff.parameters);
  diff.exclusion_from = before.exclusion();
  diff.exclusion_to = after.exclusion();
  if (before.exclusion() == "exact" && after.exclusion() != "exact") {
    diff.notes.push_back(
        "exclusion: no longer exact; the server refuses a licence or policy "
        "exclusion on this composition unless the policy allows it");
  } else if (before.exclusion() != after.exclusion()) {
    diff.notes.push_back(
        "exclusion: now exact; licence and policy "
        "exclusions are served");
  }
  RowNotes(before, after, diff);
  diff.bytes_after = plan.referenced_bytes;
  bool known = true;
  int64_t sum = 0;
  const auto add = [&](const std::string& sha256) {
    const auto it = bytes.find(sha256);
    known = known && it != bytes.end();
    if (it != bytes.end()) sum += it->second;
  };
  add(before.base().manifest_sha256());
  for (const v1::LockedExpert& e : before.experts()) add(e.manifest_sha256());
  for (const v1::LockedPilots& p : before.retriever().pilots()) {
    add(p.manifest_sha256());
  }
  diff.bytes_before = known ? sum : 0;
  return diff;
}

}  // namespace motet::assemble
