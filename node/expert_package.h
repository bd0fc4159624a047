// SPDX-License-Identifier: Apache-2.0
// A trained expert as a signed package folder, and that folder opened again
// for publishing. What the manifest says of the owner's text is counts and
// the means and thresholds that the plan listed; no text goes in.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/base_store.h"
#include "node/policy.h"
#include "node/settings.h"
#include "node/training.h"
#include "training.pb.h"

namespace motet::node {

// Writes JOB_FOLDER/package, whole or not at all, signed with the node's key,
// and checks it against the base as a stranger would.
absl::Status WriteExpertPackage(const Settings& settings, const Policy& policy,
                                const v1::TrainingPlan& plan, const Base& base,
                                const TrainedExpert& trained,
                                const std::string& job_folder);

// The end of every package: JOB_FOLDER/package, whole or not at all, signed
// with the node's key, and checked against the base as a stranger would.
absl::Status SealPackage(const Settings& settings,
                         const package::PackageContent& content,
                         const package::OpenedPackage& base,
                         const std::string& job_folder);

struct BuiltPackage {
  std::string id;
  std::string manifest_sha256;
  std::map<std::string, std::vector<uint64_t>> cuts;  // of chunks, by file
};
// Verifies signature and digests before anything is sent: the disk may have
// changed what was built.
absl::StatusOr<BuiltPackage> OpenBuilt(const Settings& settings,
                                       const std::string& folder);

// "AMD EPYC 9354 32-Core Processor", or "unknown processor".
std::string ProcessorName();

}  // namespace motet::node
