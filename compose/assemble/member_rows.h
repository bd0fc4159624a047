// SPDX-License-Identifier: Apache-2.0
// Router rows of a mixture of whole models before any tuning. A member's rows
// are a function of its own package (and of the seed) alone, so that a
// composition without it has the same rows for the others.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/dense_parts.h"
#include "compose/model/config.h"
#include "lock.pb.h"
#include "manifest.pb.h"

namespace motet::assemble {

// Why an expert has no rows by means; empty when it has.
std::string LackOfMeans(const v1::ExpertManifest& expert);

// [layer][member * C + c], member 0 the base; by the lock's router.rows:
//   means:  r_e = mu_e / |mu_e|, mu_e the mean of the base's router inputs
//           over e's documents; the base's over public text    [METHODS 11]
//   random: Normal(0, 0.02), by seed, package and layer
// InvalidArgument names the package that lacks its means.
using MemberRows = std::vector<std::vector<float>>;
absl::StatusOr<MemberRows> RowsOfMembers(const model::ModelConfig& config,
                                         const DenseParts& parts,
                                         const v1::CompositionLock& lock,
                                         uint64_t seed);
// Those by means; hint: for messages.
absl::StatusOr<MemberRows> MeanRows(
    const model::ModelConfig& config, const std::string& base_folder,
    const std::vector<const v1::ExpertManifest*>& experts,
    const std::string& hint = "");
// The random ones, whatever the lock says.
MemberRows RandomRows(const model::ModelConfig& config,
                      const v1::CompositionLock& lock, uint64_t seed);

}  // namespace motet::assemble
