// SPDX-License-Identifier: Apache-2.0
// What the contrastive runs share, of an adapter or of a whole encoder:
// options, and the step loop with warm-up and a line to 0, progress,
// checkpoints, exact resume. What a step computes is the caller's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/learn/checkpoint.h"
#include "compose/learn/optimizer.h"
#include "compose/learn/step.h"
#include "compose/learn/trainer.h"

namespace motet::learn {

struct ContrastiveOptions {
  int64_t steps = 0;
  double temperature = 0.05;
  double learning_rate = 1e-4;
  double warmup_fraction = 0.1;  // of the steps; then in a line to 0
  double clip_norm = 1;          // <= 0: no clipping
  double weight_decay = 0;
  uint64_t seed = 1;
  math::Product product = math::Product::kExact;  // or kBf16
  int64_t checkpoint_every = 0;                   // steps; 0 = never
  std::string checkpoint_path;                    // as TrainOptions'
};
// Everything that is wrong with them; empty: nothing is.
std::vector<std::string> WrongOptions(const ContrastiveOptions& options);
// Of a checkpoint's description: all that a run's result depends on.
Description Describe(const ContrastiveOptions& options);

struct ContrastiveRun {
  std::string name;  // for messages: "an adapter"
  ContrastiveOptions options;
  Description description;  // whose checkpoint is it
  Optimizer* optimizer = nullptr;
  // Functions of the step, from 0.
  std::function<StepResult(int64_t step)> gradients;
  std::function<void(StepResult& result, double rate)> apply;
};

// Cancelled when progress said so, after a checkpoint; Aborted when steps
// without finite numbers follow each other.
absl::StatusOr<TrainResult> RunContrastive(const ContrastiveRun& run,
                                           const OnProgress& progress);

}  // namespace motet::learn
