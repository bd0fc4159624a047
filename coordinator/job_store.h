// SPDX-License-Identifier: Apache-2.0
// Training plans and what nodes said of them, kept on disk so that a
// restarted daemon knows what it offered. One folder a plan:
//   jobs/PLAN_ID/plan.json            the plan, proto3 JSON
//   jobs/PLAN_ID/OWNER_NODE.json     the node's last update
// Thread-safe.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "training.pb.h"

namespace motet::coordinator {

// Nothing more will come of a job in such a state.
bool IsFinal(v1::JobState state);
const char* StateName(v1::JobState state);  // "training", ...

class JobStore {
 public:
  static absl::StatusOr<std::unique_ptr<JobStore>> Open(
      const std::string& folder);

  // AlreadyExists when the id is taken by another plan; the same plan again
  // is OK.
  absl::Status AddPlan(const v1::TrainingPlan& plan);
  // Progress is kept in memory; a change of state is written first.
  absl::Status Update(const v1::JobUpdate& update);
  std::vector<v1::TrainingPlan> Plans() const;
  std::vector<v1::JobUpdate> Jobs() const;
  // Plans for this owner that its node has not finished.
  std::vector<v1::TrainingPlan> Open(const std::string& owner,
                                     const std::string& node) const;

 private:
  explicit JobStore(std::string folder) : folder_(std::move(folder)) {}
  using Key = std::pair<std::string, std::string>;  // plan, owner_node

  const std::string folder_;
  mutable absl::Mutex mutex_;
  std::map<std::string, v1::TrainingPlan> plans_ ABSL_GUARDED_BY(mutex_);
  std::map<Key, v1::JobUpdate> jobs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace motet::coordinator
