// SPDX-License-Identifier: Apache-2.0
// Method dume (METHODS 5) and anchored routing with a pooled covariance: rows
// or discriminants solved from what the base and the owners published, for
// each expert set from that set's parts alone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/model/decoder.h"
#include "compose/package/safetensors.h"

namespace motet::assemble {

// anchor: the base's anchor.safetensors; its part is N (Sigma_0 + mu_0
// mu_0^T) and N mu_0 with N = anchor_tokens. statistics: each expert's
// statistics.safetensors, in the composition's order, and tokens the number
// behind each. InvalidArgument names
// the file and the tensor that is not there, of another shape, or not finite.
// Rows are solved when a set is first asked for and kept for the sets used
// last, within a budget of memory.
enum class Solved { kRows, kDiscriminants };
absl::StatusOr<std::shared_ptr<model::RowSource>> MakeSolvedRows(
    Solved what, const model::ModelConfig& config,
    const package::SafetensorsFile& anchor, uint64_t anchor_tokens,
    std::vector<std::shared_ptr<const package::SafetensorsFile>> statistics,
    const std::vector<uint64_t>& tokens, double ridge);

}  // namespace motet::assemble
