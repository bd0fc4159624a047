// SPDX-License-Identifier: Apache-2.0
// The JSON files of one job's folder (node/job_store.h lists them): records
// and decisions in, bytes out, and back. Every write is atomic and durable.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/job_store.h"

namespace motet::node {

// state.json (plan.json is written once, by JobStore::Add).
absl::Status SaveRecord(const std::string& folder, const JobRecord& record);
// plan.json and state.json.
absl::StatusOr<JobRecord> LoadRecord(const std::string& folder);

absl::Status SaveDecision(const std::string& folder,
                          const OwnerDecision& decision);
absl::StatusOr<OwnerDecision> LoadDecision(const std::string& path);

// Removes checkpoints and the built package, so that a job starts afresh.
absl::Status RemoveResults(const std::string& folder);
// Removes what a killed process left half-written. Not while one writes.
absl::Status RemoveLeftovers(const std::string& folder);

}  // namespace motet::node
