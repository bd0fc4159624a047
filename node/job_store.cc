// SPDX-License-Identifier: Apache-2.0
#include "node/job_store.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/job_files.h"
#include "node/plan_check.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::node {
namespace {

constexpr double kProgressSaveSeconds = 2;

double Seconds() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void SortByArrival(std::vector<JobRecord>& records) {
  std::sort(records.begin(), records.end(),
            [](const JobRecord& a, const JobRecord& b) {
              return std::pair(a.received_at, a.plan.id()) <
                     std::pair(b.received_at, b.plan.id());
            });
}

}  // namespace

v1::JobUpdate ToUpdate(const JobRecord& r) {
  v1::JobUpdate u;
  u.set_plan_id(r.plan.id());
  u.set_state(r.state);
  u.set_detail(r.public_detail);
  u.set_step(r.step);
  u.set_steps(r.all_steps());
  u.set_loss(r.loss);
  u.set_tokens_per_second(r.tokens_per_second);
  u.set_eta_seconds(r.eta_seconds);
  u.set_seconds(r.seconds);
  u.set_peak_rss_mib(r.peak_rss_mib);
  u.set_package_id(r.package_id);
  u.set_manifest_sha256(r.manifest_sha256);
  return u;
}

bool ApplyDecision(const OwnerDecision& decision, JobRecord& r) {
  using Kind = OwnerDecision::Kind;
  if (decision.kind == Kind::kRefuse) {
    if (r.finished()) return false;
    r.decided_by = "owner";
    r.detail = r.public_detail =
        decision.reason.empty() ? "refused by the owner"
                                : "refused by the owner: " + decision.reason;
    if (r.state == v1::JOB_TRAINING || r.state == v1::JOB_PUBLISHING) {
      r.cancel_requested = true;  // the worker ends it
    } else {
      r.state = v1::JOB_REFUSED;
    }
    return true;
  }
  const bool waiting =
      r.state == v1::JOB_OFFERED || r.state == v1::JOB_AWAITING_CONSENT;
  const bool again =
      r.state == v1::JOB_FAILED || r.state == v1::JOB_CANCELLED;
  if (!waiting && !again) return false;
  r.state = v1::JOB_APPROVED;
  r.decided_by = "owner";
  r.cancel_requested = false;
  r.detail = r.public_detail = "approved by the owner";
  if (decision.kind == Kind::kRestart) {
    r.threads = 0;
    r.corpus_sha256.clear();
    r.step = 0;
    r.seconds = 0;
  }
  return true;
}

absl::StatusOr<std::vector<JobRecord>> ReadJobs(const std::string& dir) {
  std::vector<JobRecord> records;
  const std::string folder = dir + "/jobs";
  if (!proto::Exists(folder)) return records;
  MOTET_ASSIGN_OR_RETURN(std::vector<std::string> names,
                         proto::ListDirectory(folder));
  for (const std::string& name : names) {
    if (!IsPlanId(name)) continue;  // .forgotten, a folder being removed
    // A folder without a state is an offer whose storing was cut short: the
    // coordinator makes it again.
    if (!proto::Exists(absl::StrCat(folder, "/", name, "/state.json"))) {
      continue;
    }
    MOTET_ASSIGN_OR_RETURN(
        JobRecord record, LoadRecord(absl::StrCat(folder, "/", name)));
    records.push_back(std::move(record));
  }
  SortByArrival(records);
  return records;
}

absl::StatusOr<JobRecord> ReadJob(const std::string& dir,
                                  const std::string& id) {
  MOTET_ASSIGN_OR_RETURN(std::vector<JobRecord> records, ReadJobs(dir));
  std::string ids;
  for (JobRecord& r : records) {
    if (r.plan.id() == id) return std::move(r);
    absl::StrAppend(&ids, ids.empty() ? "" : ", ", r.plan.id());
  }
  return proto::Error(absl::StatusCode::kNotFound, "jobs",
                      absl::StrCat("\"", id, "\""), "a job of this node",
                      ids.empty() ? "there is none yet"
                                  : absl::StrCat("there are ", ids));
}

absl::Status LeaveDecision(const std::string& dir, const std::string& id,
                           OwnerDecision decision) {
  MOTET_ASSIGN_OR_RETURN(JobRecord record, ReadJob(dir, id));
  const bool refuse = decision.kind == OwnerDecision::Kind::kRefuse;
  if (JobRecord trial = record; !ApplyDecision(decision, trial)) {
    return proto::Error(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("jobs/", id),
        absl::StrCat("a job that is ", StateName(record.state)),
        refuse ? "one that is not finished"
               : "one that waits for consent, failed or was cancelled",
        refuse ? "`motet-node jobs forget` removes a finished one" : "");
  }
  decision.stamp = Now();
  return SaveDecision(absl::StrCat(dir, "/jobs/", id), decision);
}

absl::Status ForgetJob(const std::string& dir, const std::string& id) {
  MOTET_ASSIGN_OR_RETURN(JobRecord record, ReadJob(dir, id));
  if (!record.finished()) {
    return proto::Error(absl::StatusCode::kFailedPrecondition,
                        absl::StrCat("jobs/", id),
                        absl::StrCat("a job that is ",
                                     StateName(record.state)),
                        "a finished one",
                        absl::StrCat("`motet-node jobs refuse ", id,
                                     "` ends it"));
  }
  const std::string marks = dir + "/jobs/.forgotten";
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(marks, 0700));
  MOTET_RETURN_IF_ERROR(
      proto::WriteFileAtomic(absl::StrCat(marks, "/", id), "", 0600));
  // Renamed first: a daemon never sees half a folder.
  const std::string gone = absl::StrCat(dir, "/jobs/.removed-", id);
  MOTET_RETURN_IF_ERROR(
      proto::RenameDurably(absl::StrCat(dir, "/jobs/", id), gone));
  std::error_code error;
  std::filesystem::remove_all(gone, error);
  if (error) {
    return proto::Error(absl::StatusCode::kInternal, gone, error.message(),
                        "a folder that can be removed", "remove it by hand");
  }
  return absl::OkStatus();
}

bool IsForgotten(const std::string& dir, const std::string& id) {
  return IsPlanId(id) &&
         proto::Exists(absl::StrCat(dir, "/jobs/.forgotten/", id));
}

absl::StatusOr<std::unique_ptr<JobStore>> JobStore::Open(
    const std::string& dir) {
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(dir + "/jobs", 0700));
  MOTET_ASSIGN_OR_RETURN(std::vector<JobRecord> records, ReadJobs(dir));
  std::unique_ptr<JobStore> store(new JobStore(dir));
  for (JobRecord& r : records) {
    const std::string id = r.plan.id();
    MOTET_RETURN_IF_ERROR(RemoveLeftovers(store->JobPath(id)));
    store->jobs_.emplace(id, std::move(r));
  }
  return store;
}

void JobStore::OnChange(
    std::function<void(const JobRecord&, bool)> listener) {
  std::lock_guard lock(mutex_);
  listener_ = std::move(listener);
}

void JobStore::Notify(const JobRecord& record, bool urgent) {
  std::function<void(const JobRecord&, bool)> listener;
  {
    std::lock_guard lock(mutex_);
    listener = listener_;
  }
  if (listener) listener(record, urgent);
}

std::string JobStore::JobPath(const std::string& id,
                              const std::string& relative) const {
  return absl::StrCat(dir_, "/jobs/", id, relative.empty() ? "" : "/",
                      relative);
}

absl::Status JobStore::Save(const JobRecord& record) const {
  return SaveRecord(JobPath(record.plan.id()), record);
}

std::vector<JobRecord> JobStore::List() const {
  std::vector<JobRecord> records;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, record] : jobs_) records.push_back(record);
  }
  SortByArrival(records);
  return records;
}

absl::StatusOr<JobRecord> JobStore::Get(const std::string& id) const {
  std::lock_guard lock(mutex_);
  const auto it = jobs_.find(id);
  if (it == jobs_.end()) {
    return proto::Error(absl::StatusCode::kNotFound, "jobs",
                        absl::StrCat("\"", id, "\""), "a job of this node");
  }
  return it->second;
}

absl::Status JobStore::Add(JobRecord record) {
  const std::string id = record.plan.id();
  {
    std::lock_guard lock(mutex_);
    if (jobs_.contains(id)) {
      return proto::Error(absl::StatusCode::kAlreadyExists, "jobs", id,
                          "a new plan id");
    }
    MOTET_RETURN_IF_ERROR(proto::MakeDirectories(JobPath(id), 0700));
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(
        JobPath(id, "plan.json"), PlanJson(record.plan), 0600));
    MOTET_RETURN_IF_ERROR(Save(record));
    jobs_[id] = record;
  }
  Notify(record, true);
  return absl::OkStatus();
}

absl::Status JobStore::Change(const std::string& id,
                              const std::function<void(JobRecord&)>& change) {
  JobRecord record;
  {
    std::lock_guard lock(mutex_);
    const auto it = jobs_.find(id);
    if (it == jobs_.end()) {
      return proto::Error(absl::StatusCode::kNotFound, "jobs", id,
                          "a job of this node");
    }
    record = it->second;
    change(record);
    MOTET_RETURN_IF_ERROR(Save(record));
    it->second = record;
    saved_at_[id] = Seconds();
  }
  Notify(record, true);
  return absl::OkStatus();
}

void JobStore::Progress(const std::string& id,
                        const std::function<void(JobRecord&)>& change) {
  JobRecord record;
  {
    std::lock_guard lock(mutex_);
    const auto it = jobs_.find(id);
    if (it == jobs_.end()) return;
    change(it->second);
    record = it->second;
    double& saved = saved_at_[id];
    if (Seconds() - saved >= kProgressSaveSeconds) {
      saved = Seconds();
      (void)Save(record);  // only a view for `jobs list`; the next one may fit
    }
  }
  Notify(record, false);
}

absl::Status JobStore::Poll() {
  std::vector<std::string> ids;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, record] : jobs_) ids.push_back(id);
  }
  for (const std::string& id : ids) {
    if (!proto::Exists(JobPath(id, "state.json"))) {
      std::lock_guard lock(mutex_);
      jobs_.erase(id);
      saved_at_.erase(id);
      continue;
    }
    const std::string path = JobPath(id, "decision.json");
    if (!proto::Exists(path)) continue;
    MOTET_ASSIGN_OR_RETURN(OwnerDecision decision, LoadDecision(path));
    MOTET_ASSIGN_OR_RETURN(JobRecord now, Get(id));
    // The stamp makes a decision count once, even when the daemon dies
    // between taking it in and removing the file.
    if (now.decision_stamp != decision.stamp) {
      if (decision.kind == OwnerDecision::Kind::kRestart &&
          (now.state == v1::JOB_FAILED || now.state == v1::JOB_CANCELLED)) {
        MOTET_RETURN_IF_ERROR(RemoveResults(JobPath(id)));
      }
      MOTET_RETURN_IF_ERROR(Change(id, [&](JobRecord& r) {
        ApplyDecision(decision, r);
        r.decision_stamp = decision.stamp;
      }));
    }
    std::error_code error;
    std::filesystem::remove(path, error);
  }
  return absl::OkStatus();
}

}  // namespace motet::node
