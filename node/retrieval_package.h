// SPDX-License-Identifier: Apache-2.0
// An adapter, or pilots, as a signed package folder. What they say of the
// owner's queries and documents is their number, and of pilots the means; no
// text goes in.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "node/policy.h"
#include "node/retrieval_jobs.h"
#include "node/settings.h"
#include "training.pb.h"

namespace motet::node {

// Both write JOB_FOLDER/package as WriteExpertPackage does.
absl::Status WriteAdapterPackage(const Settings& settings, const Policy& policy,
                                 const v1::TrainingPlan& plan,
                                 const EncoderBase& base,
                                 const TrainedAdapter& trained,
                                 const std::string& job_folder);
absl::Status WritePilotsPackage(const Settings& settings, const Policy& policy,
                                const v1::TrainingPlan& plan,
                                const EncoderBase& base,
                                const OwnersPilots& pilots,
                                const std::string& job_folder);

}  // namespace motet::node
