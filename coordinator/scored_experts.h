// SPDX-License-Identifier: Apache-2.0
// Which adapters a plan of kind "pilots" has its owners rank with: names in
// the plan, or every adapter of the base, become ids with digests. What a
// licence keeps from the plan's owners is left out, and said.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compose/package/package_folder.h"
#include "coordinator/federation.h"
#include "registry/client.h"
#include "training.pb.h"

namespace motet::coordinator {

struct LeftOut {
  std::string id, reason;
};
// Fills plan.scored. An adapter that the plan names must be there, of this
// base and not revoked; without a version it is the newest. Where it names
// none, those of the base in their newest version are taken, ascending by id.
// An owner's own adapter needs no licence where the plan is for this owner
// alone. FailedPrecondition when none is left.
absl::StatusOr<std::vector<LeftOut>> ResolveScored(
    const Federation& federation, registry::Client& client,
    const package::OpenedPackage& base, v1::TrainingPlan& plan);

}  // namespace motet::coordinator
