// SPDX-License-Identifier: Apache-2.0
// motet eval exclusion of a retrieval composition.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "compose/math/operators.h"
#include "coordinator/cli.h"

namespace motet::coordinator {

struct RetrievalExclusionOptions {
  std::string name;                  // of the composition
  std::string index;                 // folder of the index that is searched
  std::string prompt;                // the query, or
  std::vector<std::string> data;     // one folder in BEIR layout, with many
  std::string split = "test";        // of its judged queries
  std::vector<std::string> experts;  // each by itself; none: SetsToLeaveOut
  math::Product product = math::Product::kExact;
};
// Prints a proof for each set of experts; DataLoss where one does not hold.
absl::Status ProveRetrieval(const RetrievalExclusionOptions& options,
                            const Context& context);

}  // namespace motet::coordinator
