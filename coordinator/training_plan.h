// SPDX-License-Identifier: Apache-2.0
// A training plan as administrators write it, in TOML. One table of keys
// serves parsing, defaults, range checks and the plan's description.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "training.pb.h"

namespace motet::coordinator {

// Unknown keys and values out of range are errors, all at once. Base and
// issuer are filled in by the caller.
absl::StatusOr<v1::TrainingPlan> ParseTrainingPlan(const std::string& toml,
                                                   const std::string& where);
std::string DescribePlan(const v1::TrainingPlan& plan);

}  // namespace motet::coordinator
