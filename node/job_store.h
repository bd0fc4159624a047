// SPDX-License-Identifier: Apache-2.0
// The node's jobs, one folder each:
//   jobs/PLAN_ID/plan.json      the plan as offered; never changes
//   jobs/PLAN_ID/state.json     written by the daemon alone, atomically
//   jobs/PLAN_ID/decision.json  written by `motet-node jobs` alone
//   jobs/PLAN_ID/checkpoint, package/
//   jobs/.forgotten/PLAN_ID     an empty file: not to be offered again
// What enters are offers, decisions and progress; what leaves are records
// and the updates that the coordinator may see. It runs nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "training.pb.h"

namespace motet::node {

struct JobRecord {
  v1::TrainingPlan plan;
  v1::JobState state = v1::JOB_OFFERED;
  std::string detail;         // for the owner: may name local files
  std::string public_detail;  // for the coordinator
  std::string from;           // authenticated sender of the plan
  std::string received_at;    // RFC 3339, microseconds: the queue's order
  std::string decided_by;     // "policy", "owner", "coordinator"
  std::string decision_stamp; // of the last decision.json taken in
  bool cancel_requested = false;
  int64_t threads = 0;        // fixed when training begins
  std::string corpus_sha256;  // of train.jsonl when training began
  uint64_t step = 0;
  uint64_t steps = 0;         // that the run takes; 0 = the plan's
  double loss = 0, tokens_per_second = 0, eta_seconds = 0, seconds = 0;
  double peak_rss_mib = 0;
  std::string package_id, manifest_sha256;  // when published

  uint64_t all_steps() const { return steps > 0 ? steps : plan.steps(); }
  bool running() const {      // the worker's: approved and not finished
    return state == v1::JOB_APPROVED || state == v1::JOB_TRAINING ||
           state == v1::JOB_PUBLISHING;
  }
  bool finished() const {
    return state == v1::JOB_REFUSED || state == v1::JOB_PUBLISHED ||
           state == v1::JOB_FAILED || state == v1::JOB_CANCELLED;
  }
};

// "awaiting consent", for people and for state.json.
std::string StateName(v1::JobState state);
// What the coordinator is told: no local detail, nothing of the corpus.
v1::JobUpdate ToUpdate(const JobRecord& record);

// What an owner says through `motet-node jobs`.
struct OwnerDecision {
  enum class Kind { kApprove, kRestart, kRefuse } kind = Kind::kApprove;
  std::string reason;
  std::string stamp;  // makes it distinct from earlier ones
};

// Reads jobs of a folder without a daemon, for `jobs list` and `jobs show`;
// sorted by arrival. NotFound lists the jobs that exist.
absl::StatusOr<std::vector<JobRecord>> ReadJobs(const std::string& dir);
absl::StatusOr<JobRecord> ReadJob(const std::string& dir,
                                  const std::string& id);
// Leaves a decision for the daemon, running or not. FailedPrecondition when
// the job's state does not take it.
absl::Status LeaveDecision(const std::string& dir, const std::string& id,
                           OwnerDecision decision);
// Removes a finished job's folder; a plan of this id is not taken again.
absl::Status ForgetJob(const std::string& dir, const std::string& id);
bool IsForgotten(const std::string& dir, const std::string& id);

// The daemon's view. Thread-safe.
class JobStore {
 public:
  // Reads every job; a state that cannot be read is an error that names it.
  static absl::StatusOr<std::unique_ptr<JobStore>> Open(
      const std::string& dir);

  // Called, without locks held, after every change; urgent: more than
  // progress.
  void OnChange(std::function<void(const JobRecord&, bool urgent)> listener);

  std::vector<JobRecord> List() const;  // by arrival
  absl::StatusOr<JobRecord> Get(const std::string& id) const;
  // Stores a new job. AlreadyExists when the id is taken.
  absl::Status Add(JobRecord record);
  // Applies `change` and stores the result; on error nothing has changed.
  absl::Status Change(const std::string& id,
                      const std::function<void(JobRecord&)>& change);
  // For progress: kept in memory, stored at most every two seconds, and a
  // full disk does not disturb it.
  void Progress(const std::string& id,
                const std::function<void(JobRecord&)>& change);
  // Takes in what owners left in the folders since the last call: decisions,
  // and folders that `forget` removed.
  absl::Status Poll();

  std::string JobPath(const std::string& id,
                      const std::string& relative = "") const;

 private:
  explicit JobStore(std::string dir) : dir_(std::move(dir)) {}
  absl::Status Save(const JobRecord& record) const;
  void Notify(const JobRecord& record, bool urgent);

  const std::string dir_;
  mutable std::mutex mutex_;
  std::map<std::string, JobRecord> jobs_;
  std::map<std::string, double> saved_at_;  // seconds, monotonic
  std::function<void(const JobRecord&, bool)> listener_;
};

// Folds one decision into a record. Returns false when the state does not
// take it (then nothing changed).
bool ApplyDecision(const OwnerDecision& decision, JobRecord& record);

// The time now, RFC 3339 UTC with microseconds.
std::string Now();

}  // namespace motet::node
