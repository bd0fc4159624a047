// SPDX-License-Identifier: Apache-2.0
// The averaged trunk [METHODS 2, 3]: the plain uniform mean, over the members
// of an expert set, of every tensor that is not an expert's own. A function
// of the set's members alone, added in their order, whatever the threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "compose/assemble/dense_parts.h"
#include "compose/math/operators.h"
#include "compose/model/config.h"
#include "compose/model/weights.h"

namespace motet::assemble {

// By a tensor's name: true where every expert keeps its own, so that the
// trunk has none.
using OwnTensor = std::function<bool(absl::string_view name)>;
struct Trunk {
  // Views of the parts' files where all members have the same tensor, means
  // in f32 otherwise; what is own is empty.
  model::ModelWeights weights;
  std::vector<std::unique_ptr<float[]>> storage;
  int64_t bytes = 0;  // of it
};

// set: bit 0 the base, bit e branch e; not empty. config: the base's, dense.
// DataLoss names a tensor whose mean is not finite.
absl::StatusOr<Trunk> AverageTrunk(const model::ModelConfig& config,
                                   const DenseParts& parts,
                                   math::ExpertMask set, const OwnTensor& own);
// Of memory that it will take.
int64_t TrunkBytes(const model::ModelConfig& config, const DenseParts& parts,
                   math::ExpertMask set, const OwnTensor& own);

}  // namespace motet::assemble
