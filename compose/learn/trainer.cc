// SPDX-License-Identifier: Apache-2.0
// The step loop. What a run is made of stands in dense_run.cc and
// owner_run.cc; what it may be made of in run_check.cc; what one step does
// in step.cc.
#include "compose/learn/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/freeze.h"
#include "compose/learn/loop.h"
#include "compose/learn/schedule.h"
#include "compose/learn/step.h"
#include "proto/error.h"

namespace motet::learn {
namespace {

// So many steps in a row without a finite loss and gradient end a run: the
// weights do not move any more, nothing will become better.
constexpr int64_t kMaxSkippedInARow = 5;
// A loss curve has about as many points.
constexpr int64_t kCurvePoints = 200;

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Reads one step's windows.
std::vector<std::span<const int32_t>> Fetch(const Run& run,
                                            const BatchPlan& plan,
                                            int64_t step) {
  std::vector<std::span<const int32_t>> sequences;
  for (const BatchPlan::Pick& pick : plan.at(step)) {
    const TokenWindows& from = pick.from_public ? *run.public_text : *run.own;
    sequences.push_back(from.at(pick.window));
  }
  return sequences;
}

// Adds a step's loss to the curve; steps without a finite loss leave no
// trace in it.
void AddLoss(double loss, int64_t loss_every, int64_t steps, RunState& state) {
  if (std::isfinite(loss)) {
    state.group_sum += loss;
    ++state.group_count;
  }
  if (state.step % loss_every != 0 && state.step != steps) return;
  if (state.group_count > 0) {
    state.curve.push_back(state.group_sum /
                          static_cast<double>(state.group_count));
  }
  state.group_sum = 0;
  state.group_count = 0;
}

}  // namespace

absl::StatusOr<TrainResult> RunTraining(Run run, const TrainOptions& asked,
                                        const OnProgress& progress) {
  const Clock::time_point start = Clock::now();
  const TrainOptions options = Resolved(asked);
  const Description description = Describe(run, options);
  MOTET_ASSIGN_OR_RETURN(
      run.parameters, WithoutFrozen(std::move(run.parameters), options.freeze));
  StepOptions step_options;
  step_options.router_z_weight = options.router_z_weight;
  step_options.lm_z_weight = options.lm_z_weight;
  step_options.clip_norm = options.clip_norm;
  step_options.weight_decay = options.weight_decay;
  step_options.accumulation = options.accumulation;
  step_options.recompute_layers = options.recompute_layers;
  Stepper stepper(*run.decoder, run.parameters, step_options);

  RunState state;
  const std::string& path = options.checkpoint_path;
  if (!path.empty()) {
    MOTET_RETURN_IF_ERROR(
        LoadCheckpoint(path, description, state, stepper.optimizer())
            .status());
  }
  const double seconds_before = state.seconds;
  const int64_t first_step = state.step;
  const auto save = [&]() {
    if (path.empty()) return absl::OkStatus();
    return SaveCheckpoint(path, description, state, stepper.optimizer());
  };

  const BatchPlan plan(
      run.own->count(), run.public_text ? run.public_text->count() : 0,
      options.batch_sequences, options.public_fraction, options.seed);
  const Schedule schedule = {
      options.steps,         options.warmup_steps, options.learning_rate,
      options.final_lr_fraction, options.schedule, options.decay_fraction};
  const int64_t step_tokens =
      options.batch_sequences * options.sequence_tokens;
  const int64_t loss_every =
      std::max<int64_t>(1, (options.steps + kCurvePoints - 1) / kCurvePoints);
  const Clock::time_point first_started = Clock::now();
  int64_t skipped_in_a_row = 0;
  while (state.step < options.steps) {
    const double rate = LearningRate(schedule, state.step + 1);
    const std::vector<std::span<const int32_t>> sequences =
        Fetch(run, plan, state.step);
    const StepResult result = stepper.Step(sequences, rate);
    ++state.step;
    state.seconds = seconds_before + SecondsSince(start);
    AddLoss(result.loss, loss_every, options.steps, state);
    skipped_in_a_row = result.applied ? 0 : skipped_in_a_row + 1;
    state.skipped += result.applied ? 0 : 1;
    if (skipped_in_a_row >= kMaxSkippedInARow) {
      return proto::Error(
          absl::StatusCode::kAborted, absl::StrCat("training of ", run.name),
          absl::StrCat("loss ", result.loss, " and gradient norm ",
                       result.gradient_norm, " at step ", state.step, ", ",
                       kMaxSkippedInARow, " such steps in a row"),
          "finite numbers", "lower the learning rate or lengthen the warm-up");
    }
    TrainProgress report;
    report.step = state.step;
    report.steps = options.steps;
    report.loss = result.loss;
    report.gradient_norm = result.gradient_norm;
    report.learning_rate = rate;
    const double per_step = SecondsSince(first_started) /
                            static_cast<double>(state.step - first_step);
    report.tokens_per_second = static_cast<double>(step_tokens) / per_step;
    report.eta_seconds =
        per_step * static_cast<double>(options.steps - state.step);
    report.seconds = SecondsSince(start);
    report.skipped = state.skipped;
    const bool go_on = !progress || progress(report);
    const bool due = options.checkpoint_every > 0 &&
                     (state.step % options.checkpoint_every == 0 ||
                      state.step == options.steps);
    if (due || !go_on) MOTET_RETURN_IF_ERROR(save());
    if (!go_on) {
      return absl::CancelledError(
          absl::StrCat("[training of ", run.name, "] stopped after step ",
                       state.step, " of ", options.steps));
    }
  }
  TrainResult result;
  result.loss_curve = state.curve;
  result.loss_every = loss_every;
  result.steps = state.step;
  result.tokens = state.step * step_tokens;
  result.skipped = state.skipped;
  result.seconds = state.seconds;
  return result;
}

}  // namespace motet::learn
