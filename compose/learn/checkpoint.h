// SPDX-License-Identifier: Apache-2.0
// What a run needs to go on as if it had never stopped: weights, moments,
// counters and loss curve, in one safetensors file that is replaced
// atomically. The file also says, in words, which run it belongs to.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compose/learn/optimizer.h"

namespace motet::learn {

// The loss on held-out windows after a step.
struct Evaluation {
  int64_t step = 0;
  double loss = 0;
  bool operator==(const Evaluation&) const = default;
};

struct RunState {
  int64_t step = 0;     // finished ones, skipped ones among them
  int64_t skipped = 0;  // steps that moved nothing: not finite, or spikes
  int64_t spikes = 0;   // of these
  int64_t skipped_in_a_row = 0;
  double seconds = 0;   // of all processes so far
  int64_t tokens = 0;   // likewise; only contrastive runs count them
  std::vector<double> curve;  // finished groups of loss_every steps
  double group_sum = 0;       // of the group under way
  int64_t group_count = 0;
  std::vector<double> losses;  // the spike detector's window
  std::vector<Evaluation> evaluations;
  Evaluation best;             // step 0: none yet
  int64_t stale = 0;           // evaluations since the best one
  bool stopped_early = false;
  // The trained tensors at the best evaluation, in the optimiser's order;
  // empty when nobody will ask for them.
  std::vector<std::vector<float>> best_weights;
  bool operator==(const RunState&) const = default;
};

// Lines "name = value" of everything that a run's result depends on. Two
// runs with equal descriptions end with the same weights.
using Description = std::vector<std::string>;

absl::Status SaveCheckpoint(const std::string& path,
                            const Description& description,
                            const RunState& state, const Optimizer& optimizer);

// true: `state` and the optimizer's weights, moments and count are those of
// the file. false: there is no file, nothing changed. An error, which names
// the lines that differ, when the file is of another run; or when it is
// damaged; nothing changed then either.
absl::StatusOr<bool> LoadCheckpoint(const std::string& path,
                                    const Description& description,
                                    RunState& state, Optimizer& optimizer);

}  // namespace motet::learn
