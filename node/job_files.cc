// SPDX-License-Identifier: Apache-2.0
#include "node/job_files.h"

#include <array>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"
#include "node/plan_check.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::node {
namespace {

using nlohmann::json;

// The states' names, once.
constexpr std::array<std::pair<v1::JobState, const char*>, 9> kStates = {{
    {v1::JOB_OFFERED, "offered"},
    {v1::JOB_AWAITING_CONSENT, "awaiting consent"},
    {v1::JOB_APPROVED, "approved"},
    {v1::JOB_REFUSED, "refused"},
    {v1::JOB_TRAINING, "training"},
    {v1::JOB_PUBLISHING, "publishing"},
    {v1::JOB_PUBLISHED, "published"},
    {v1::JOB_FAILED, "failed"},
    {v1::JOB_CANCELLED, "cancelled"},
}};

// The fields of state.json, once: visit(name, member).
template <typename Record, typename Visit>
void VisitFields(Record& r, Visit visit) {
  visit("detail", r.detail);
  visit("public_detail", r.public_detail);
  visit("from", r.from);
  visit("received_at", r.received_at);
  visit("decided_by", r.decided_by);
  visit("decision_stamp", r.decision_stamp);
  visit("cancel_requested", r.cancel_requested);
  visit("threads", r.threads);
  visit("corpus_sha256", r.corpus_sha256);
  visit("step", r.step);
  visit("loss", r.loss);
  visit("tokens_per_second", r.tokens_per_second);
  visit("eta_seconds", r.eta_seconds);
  visit("seconds", r.seconds);
  visit("peak_rss_mib", r.peak_rss_mib);
  visit("package_id", r.package_id);
  visit("manifest_sha256", r.manifest_sha256);
}

absl::StatusOr<json> LoadJson(const std::string& path) {
  MOTET_ASSIGN_OR_RETURN(std::string text,
                         proto::ReadFile(path, proto::kMaxConfigBytes));
  json value = json::parse(text, nullptr, false);
  if (!value.is_object()) {
    return proto::Invalid(path, "no JSON object", "what motet-node wrote",
                          "move the job's folder away");
  }
  return value;
}

// Removes what `matches` of the folder's entries.
template <typename Matches>
absl::Status RemoveEntries(const std::string& folder, Matches matches) {
  MOTET_ASSIGN_OR_RETURN(std::vector<std::string> names,
                         proto::ListDirectory(folder));
  for (const std::string& name : names) {
    if (!matches(name)) continue;
    const std::string path = absl::StrCat(folder, "/", name);
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) {
      return proto::Error(absl::StatusCode::kInternal, path, error.message(),
                          "something that can be removed");
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string StateName(v1::JobState state) {
  for (const auto& [value, name] : kStates) {
    if (value == state) return name;
  }
  return "unknown";
}

std::string Now() {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(),
                          absl::UTCTimeZone());
}

absl::Status SaveRecord(const std::string& folder, const JobRecord& record) {
  json value;
  value["state"] = StateName(record.state);
  value["steps"] = record.steps;
  VisitFields(record, [&](const char* name, const auto& member) {
    value[name] = member;
  });
  // Text from peers may not be UTF-8: replaced, not thrown over.
  return proto::WriteFileAtomic(
      folder + "/state.json",
      value.dump(1, ' ', false, json::error_handler_t::replace) + "\n", 0600);
}

absl::StatusOr<JobRecord> LoadRecord(const std::string& folder) {
  JobRecord record;
  const std::string plan_path = folder + "/plan.json";
  MOTET_ASSIGN_OR_RETURN(std::string plan,
                         proto::ReadFile(plan_path, proto::kMaxConfigBytes));
  if (!google::protobuf::util::JsonStringToMessage(plan, &record.plan).ok() ||
      !IsPlanId(record.plan.id())) {
    return proto::Invalid(plan_path, "no training plan",
                          "what motet-node wrote",
                          "move the job's folder away");
  }
  const std::string path = folder + "/state.json";
  MOTET_ASSIGN_OR_RETURN(json value, LoadJson(path));
  bool known = false;
  try {
    for (const auto& [state, name] : kStates) {
      if (value.at("state") == name) {
        record.state = state;
        known = true;
      }
    }
    VisitFields(record, [&](const char* name, auto& member) {
      value.at(name).get_to(member);
    });
    // Files of version 0.1 do not have it.
    record.steps = value.value("steps", record.steps);
  } catch (const json::exception& e) {
    return proto::Invalid(path, e.what(), "what motet-node wrote",
                          "move the job's folder away");
  }
  if (!known) {
    return proto::Invalid(path, absl::StrCat("state ", value["state"].dump()),
                          "a state of a job", "move the job's folder away");
  }
  return record;
}

absl::Status SaveDecision(const std::string& folder,
                          const OwnerDecision& decision) {
  using Kind = OwnerDecision::Kind;
  const json value = {
      {"decision", decision.kind == Kind::kApprove   ? "approve"
                   : decision.kind == Kind::kRestart ? "restart"
                                                     : "refuse"},
      {"reason", decision.reason},
      {"stamp", decision.stamp}};
  return proto::WriteFileAtomic(
      folder + "/decision.json",
      value.dump(1, ' ', false, json::error_handler_t::replace) + "\n", 0600);
}

absl::StatusOr<OwnerDecision> LoadDecision(const std::string& path) {
  MOTET_ASSIGN_OR_RETURN(json value, LoadJson(path));
  OwnerDecision decision;
  const std::string kind = value.value("decision", json()).dump();
  if (kind == "\"approve\"") {
    decision.kind = OwnerDecision::Kind::kApprove;
  } else if (kind == "\"restart\"") {
    decision.kind = OwnerDecision::Kind::kRestart;
  } else if (kind == "\"refuse\"") {
    decision.kind = OwnerDecision::Kind::kRefuse;
  } else {
    return proto::Invalid(path, absl::StrCat("decision ", kind),
                          "approve, restart or refuse", "remove the file");
  }
  try {
    decision.reason = value.value("reason", "");
    decision.stamp = value.value("stamp", "");
  } catch (const json::exception& e) {
    return proto::Invalid(path, e.what(), "what motet-node wrote",
                          "remove the file");
  }
  return decision;
}

absl::Status RemoveResults(const std::string& folder) {
  return RemoveEntries(folder, [](absl::string_view name) {
    return absl::StartsWith(name, "checkpoint") ||
           absl::StartsWith(name, "package");
  });
}

absl::Status RemoveLeftovers(const std::string& folder) {
  // decision.json is another process's: its temporary file is not ours.
  return RemoveEntries(folder, [](absl::string_view name) {
    return absl::StartsWith(name, "package.partial") ||
           absl::StartsWith(name, "checkpoint.") ||
           absl::StartsWith(name, "state.json.");
  });
}

}  // namespace motet::node
