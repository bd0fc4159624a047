// SPDX-License-Identifier: Apache-2.0
// Proxy data for router tuning [METHODS 1.6]: public documents of the base that
// owners' classifiers scored highest. Scores come from the packages; the text
// is the base's.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/composition.h"

namespace motet::assemble {

// For each expert the `each` documents of the base's public text that it
// scored highest, and as many drawn from the rest, in the order of the text.
// InvalidArgument names every expert whose package has no scores, or none of
// this text.
absl::StatusOr<std::vector<std::string>> ProxyDocuments(
    const Part& base, const std::vector<Part>& experts, int64_t each,
    uint64_t seed);

}  // namespace motet::assemble
