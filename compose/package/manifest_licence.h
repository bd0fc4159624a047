// SPDX-License-Identifier: Apache-2.0
// Licence terms read as rules: the one place that says whether terms allow a
// use. The coordinator's gate asks it at every query; coordinator and node
// ask it before an adapter is sent to another owner.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "manifest.pb.h"

namespace motet::package {

// What an adapter is used for when another owner ranks its own queries with
// it, to make pilots: licences allow or forbid it as any purpose. The tenant
// is the owner who does.
inline constexpr char kScoringPurpose[] = "scoring";

// Empty when the terms allow it, else the reason.
std::string WithheldByTerms(const v1::LicenceTerms& terms,
                            const std::string& purpose,
                            const std::string& tenant, absl::Time now);

}  // namespace motet::package
