// SPDX-License-Identifier: Apache-2.0
// A branch of the base (Branch-Train): a copy of it whose every weight, or
// whose FFNs alone, its owner trains on own and public text. The branch may be
// wider or narrower than the base in its FFNs (HDEE).
#pragma once

#include "absl/status/statusor.h"
#include "compose/learn/trainer.h"

namespace motet::learn {

struct BranchOptions : TrainOptions {
  int64_t ffn_width = 0;      // F of the branch; 0 = the base's
  bool frozen_trunk = false;  // trains the FFNs alone
};

// The branch before training, in f32. Wider: the base's rows, then rows of
// gate and up drawn from Normal(0, rms of the base's), with zero columns of
// down, so that the branch computes what the base does, and yet the first step
// moves the new columns (gate and up zero as well would never move:
// down's gradient is the hidden value, gate's and up's go through down).
// Narrower: the rows that speak loudest,
//   |gate_f| |up_f| |down_f|    (Euclidean norms; ties to the lowest f),
// in the base's order; this changes what is computed.
// ffn_width: 0 = the base's; another one only of a base without experts.
absl::StatusOr<OwnedModel> StartBranch(const package::LoadedModel& base,
                                       int64_t ffn_width, uint64_t seed);

// From StartBranch, or its checkpoint, to the trained branch.
absl::StatusOr<OwnedModel> TrainBranch(const package::LoadedModel& base,
                                       const TokenWindows& own,
                                       const TokenWindows& public_text,
                                       const BranchOptions& options,
                                       const OnProgress& progress,
                                       TrainResult* result,
                                       const TokenWindows* held_out = nullptr);

// A view: the branch must outlive it.
absl::StatusOr<model::Decoder> BranchDecoder(const OwnedModel& branch);

}  // namespace motet::learn
