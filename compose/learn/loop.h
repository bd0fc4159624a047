// SPDX-License-Identifier: Apache-2.0
// The step loop that every training run shares: batches by plan, schedule,
// progress, checkpoints, resume. Inside compose/learn only.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/learn/checkpoint.h"
#include "compose/learn/optimizer.h"
#include "compose/learn/trainer.h"
#include "compose/model/decoder.h"

namespace motet::learn {

struct Run {
  std::string name;                   // for messages: "base", "owner's expert"
  const model::Decoder* decoder = nullptr;
  std::vector<Parameter> parameters;  // at their start values
  const TokenWindows* own = nullptr;
  const TokenWindows* public_text = nullptr;  // may be null
  const TokenWindows* held_out = nullptr;     // may be null
  Description description;            // beyond options and data
  // Before each piece of a step's batch, steps from 0. May be null.
  std::function<void(int64_t step, int64_t piece)> before_piece;
};

// The options with every default that depends on others filled in.
TrainOptions Resolved(TrainOptions options);

// Everything that the weights after the run depend on, but the thread count
// and what moves no bit.
Description Describe(const Run& run, const TrainOptions& options);

// What is wrong with options and data, all of it in one error.
absl::Status CheckRun(const std::string& name, const TrainOptions& options,
                      const model::ModelConfig& config,
                      const TokenWindows& own,
                      const TokenWindows* public_text,
                      const TokenWindows* held_out);

absl::StatusOr<TrainResult> RunTraining(Run run, const TrainOptions& options,
                                        const OnProgress& progress);

// "name = digest" of tensors' bytes, for a description.
std::string DigestLine(const std::string& name,
                       const std::vector<math::Tensor>& tensors);
// ... of every tensor of the base: another base, another run.
std::string BaseLine(const package::LoadedModel& base);

}  // namespace motet::learn
