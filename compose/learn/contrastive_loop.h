// SPDX-License-Identifier: Apache-2.0
// The step loop of contrastive training, of an adapter or of a whole encoder:
// warm-up and a line to 0, progress, checkpoints, exact resume. What a step
// computes is the caller's. Inside compose/learn only.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "compose/learn/checkpoint.h"
#include "compose/learn/optimizer.h"
#include "compose/learn/step.h"
#include "compose/learn/trainer.h"

namespace motet::learn {

struct ContrastiveRun {
  std::string name;  // for messages: "an adapter"
  int64_t steps = 0;
  double learning_rate = 0;
  double warmup_fraction = 0;
  int64_t checkpoint_every = 0;  // steps; 0 = never
  std::string checkpoint_path;
  Description description;       // whose checkpoint is it
  Optimizer* optimizer = nullptr;
  // Functions of the step, from 0.
  std::function<StepResult(int64_t step)> gradients;
  std::function<void(StepResult& result, double rate)> apply;
  std::function<int64_t(int64_t step)> tokens;
};

// Cancelled when progress said so, after a checkpoint; Aborted when steps
// without finite numbers follow each other.
absl::StatusOr<TrainResult> RunContrastive(const ContrastiveRun& run,
                                           const OnProgress& progress);

}  // namespace motet::learn
