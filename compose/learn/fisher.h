// SPDX-License-Identifier: Apache-2.0
// Fisher information, by which merges weigh models tensor by tensor and number
// by number (METHODS 6): where the text's likelihood depends on a weight, that
// weight counts.
#pragma once

#include "absl/status/statusor.h"
#include "compose/learn/trainer.h"

namespace motet::learn {

// Of every weight w over the first n windows, at most max_tokens tokens of
// them but one window at least; returned in the places of the weights.
//   F_w = 1/n Σ_i (d log p_i / d w)²
//   log p_i = mean over the window's positions that have a next token
// The empirical one, by the text's own tokens. F32; sums in window order, so
// the same bits at the same thread count. The model is only read.
absl::StatusOr<OwnedModel> ComputeFisher(OwnedModel& model,
                                         const TokenWindows& windows,
                                         int64_t max_tokens);

}  // namespace motet::learn
