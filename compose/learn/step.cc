// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/step.h"

#include <cmath>
#include <utility>

namespace motet::learn {
namespace {

// Activations of one step are tens of megabytes; blocks of this size leave
// little unused at their ends.
constexpr int64_t kArenaBlock = int64_t{64} << 20;

std::vector<model::SequenceInput> Inputs(Sequences sequences) {
  std::vector<model::SequenceInput> inputs;
  for (std::span<const int32_t> ids : sequences) {
    model::SequenceInput input;
    input.ids = ids;
    inputs.push_back(input);
  }
  return inputs;
}

// Each position's next token; -1 at the end of a sequence, which therefore
// counts in no mean.
std::vector<int32_t> NextTokens(Sequences sequences) {
  std::vector<int32_t> targets;
  for (std::span<const int32_t> ids : sequences) {
    if (ids.empty()) continue;
    targets.insert(targets.end(), ids.begin() + 1, ids.end());
    targets.push_back(-1);
  }
  return targets;
}

// loss = CE + lm_z * mean lse(logits)^2
//           + router_z * sum_l mean lse(router logits)^2      [METHODS 1]
StepResult Forward(const model::Decoder& decoder, math::Exec& exec,
                   const model::Batch& batch,
                   std::span<const int32_t> targets,
                   const StepOptions& options) {
  StepResult result;
  model::Trace trace;
  const bool routed =
      decoder.config().experts > 0 && options.router_z_weight != 0;
  const math::Tensor hidden =
      decoder.Forward(exec, batch, routed ? &trace : nullptr);
  const math::Tensor logits = decoder.Logits(exec, hidden);
  double parts[2] = {};
  result.loss = exec.CrossEntropy(logits, targets, options.lm_z_weight,
                                  nullptr, parts);
  result.cross_entropy = parts[0];
  result.lm_z = parts[1];
  for (const math::Tensor& router_logits : trace.router_logits) {
    result.router_z += exec.RouterZ(router_logits, options.router_z_weight);
  }
  result.loss += options.router_z_weight * result.router_z;
  return result;
}

}  // namespace

Stepper::Stepper(const model::Decoder& decoder,
                 std::vector<Parameter> parameters,
                 const StepOptions& options, const math::Kernels& kernels)
    : decoder_(decoder),
      kernels_(kernels),
      options_(options),
      arena_(kArenaBlock),
      tape_(arena_),
      optimizer_(std::move(parameters), tape_) {}

StepResult Stepper::Gradients(Sequences sequences) {
  tape_.Reset();
  arena_.Reset();
  const std::vector<model::SequenceInput> inputs = Inputs(sequences);
  const model::Batch batch(inputs);
  const std::vector<int32_t> targets = NextTokens(sequences);
  math::Exec exec(kernels_, arena_, options_.product, &tape_);
  StepResult result = Forward(decoder_, exec, batch, targets, options_);
  tape_.Backward();
  result.gradient_norm = optimizer_.GradientNorm();
  return result;
}

StepResult Stepper::Step(Sequences sequences, double learning_rate) {
  StepResult result = Gradients(sequences);
  if (!std::isfinite(result.loss) || !std::isfinite(result.gradient_norm)) {
    return result;
  }
  optimizer_.Step(kernels_, learning_rate, options_.weight_decay,
                  result.gradient_norm, options_.clip_norm);
  result.applied = true;
  return result;
}

StepResult Evaluate(const model::Decoder& decoder, Sequences sequences,
                    const StepOptions& options, const math::Kernels& kernels) {
  math::Arena arena(kArenaBlock);
  math::Exec exec(kernels, arena, options.product);
  const std::vector<model::SequenceInput> inputs = Inputs(sequences);
  const model::Batch batch(inputs);
  return Forward(decoder, exec, batch, NextTokens(sequences), options);
}

}  // namespace motet::learn
