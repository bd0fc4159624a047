// SPDX-License-Identifier: Apache-2.0
// The step loop. What a run is made of stands in dense_run.cc and
// owner_run.cc; what one step does in step.cc.
#include "compose/learn/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/learn/hash.h"
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

std::string WindowsLine(const std::string& name, const TokenWindows* windows) {
  if (windows == nullptr) return absl::StrCat(name, " = none");
  Fingerprint sum;
  for (int64_t i = 0; i < windows->count(); ++i) {
    const std::span<const int32_t> ids = windows->at(i);
    sum.Add(ids.data(), static_cast<int64_t>(ids.size_bytes()));
  }
  return absl::StrCat(name, " = ", windows->count(), " windows ", sum.Hex());
}

// Everything that the weights after the run depend on, but the thread count.
Description Describe(const Run& run, const TrainOptions& options) {
  const auto exact = [](double value) {
    return absl::StrFormat("%.17g", value);
  };
  Description lines = {
      absl::StrCat("run = ", run.name),
      absl::StrCat("steps = ", options.steps),
      absl::StrCat("batch_sequences = ", options.batch_sequences),
      absl::StrCat("sequence_tokens = ", options.sequence_tokens),
      absl::StrCat("learning_rate = ", exact(options.learning_rate)),
      absl::StrCat("warmup_steps = ", options.warmup_steps),
      absl::StrCat("final_lr_fraction = ", exact(options.final_lr_fraction)),
      absl::StrCat("clip_norm = ", exact(options.clip_norm)),
      absl::StrCat("weight_decay = ", exact(options.weight_decay)),
      absl::StrCat("router_z_weight = ", exact(options.router_z_weight)),
      absl::StrCat("lm_z_weight = ", exact(options.lm_z_weight)),
      absl::StrCat("public_fraction = ", exact(options.public_fraction)),
      absl::StrCat("seed = ", options.seed),
      WindowsLine("text", run.own),
      WindowsLine("public_text", run.public_text),
  };
  std::vector<math::Tensor> start;
  for (const Parameter& p : run.parameters) start.push_back(p.value);
  lines.push_back(DigestLine("start", start));
  lines.insert(lines.end(), run.description.begin(), run.description.end());
  return lines;
}

bool AllBelow(const TokenWindows& windows, int64_t vocabulary) {
  for (int64_t i = 0; i < windows.count(); ++i) {
    for (int32_t id : windows.at(i)) {
      if (id < 0 || id >= vocabulary) return false;
    }
  }
  return true;
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

std::string DigestLine(const std::string& name,
                       const std::vector<math::Tensor>& tensors) {
  Fingerprint sum;
  for (const math::Tensor& t : tensors) sum.Add(t.data, t.bytes());
  return absl::StrCat(name, " = ", sum.Hex());
}

absl::Status CheckRun(const std::string& name, const TrainOptions& options,
                      const model::ModelConfig& config,
                      const TokenWindows& own,
                      const TokenWindows* public_text) {
  std::vector<std::string> reasons;
  const auto want = [&](bool fine, const auto&... reason) {
    if (!fine) reasons.push_back(absl::StrCat(reason...));
  };
  const auto fraction = [](double f) { return f >= 0 && f <= 1; };
  const int64_t length = options.sequence_tokens;
  want(options.steps >= 1, options.steps, " steps (want at least 1)");
  want(options.batch_sequences >= 1, "batches of ", options.batch_sequences,
       " sequences (want at least 1)");
  want(length >= 2, "sequences of ", length, " tokens (want at least 2)");
  want(config.max_positions <= 0 || length <= config.max_positions,
       "sequences of ", length, " tokens (the model takes at most ",
       config.max_positions, ")");
  want(std::isfinite(options.learning_rate) && options.learning_rate > 0,
       "learning rate ", options.learning_rate, " (want above 0)");
  want(options.warmup_steps >= 0, options.warmup_steps, " warm-up steps");
  want(fraction(options.final_lr_fraction), "final_lr_fraction ",
       options.final_lr_fraction, " (want 0 to 1)");
  want(options.weight_decay >= 0, "weight decay ", options.weight_decay);
  want(fraction(options.public_fraction), "public_fraction ",
       options.public_fraction, " (want 0 to 1)");
  want(options.checkpoint_every <= 0 || !options.checkpoint_path.empty(),
       "checkpoint_every without a checkpoint_path");
  want(own.count() > 0, "text of ", own.tokens(), " tokens, fewer than one ",
       "window of ", own.window());
  want(own.window() == length, "windows of ", own.window(),
       " tokens for sequences of ", length);
  want(AllBelow(own, config.vocabulary),
       "token ids beyond the model's vocabulary of ", config.vocabulary);
  const bool mixes = options.public_fraction > 0;
  want(!mixes || (public_text != nullptr && public_text->count() > 0),
       "public_fraction ", options.public_fraction,
       " but not one window of public text");
  if (public_text != nullptr && public_text->count() > 0) {
    want(public_text->window() == length, "public windows of ",
         public_text->window(), " tokens for sequences of ", length);
    want(AllBelow(*public_text, config.vocabulary),
         "public token ids beyond the model's vocabulary of ",
         config.vocabulary);
  }
  if (reasons.empty()) return absl::OkStatus();
  return proto::Invalid(absl::StrCat("training of ", name),
                        absl::StrJoin(reasons, "; "),
                        "options and text that fit the model",
                        "correct the training plan");
}

absl::StatusOr<TrainResult> RunTraining(Run run, const TrainOptions& options,
                                        const OnProgress& progress) {
  const Clock::time_point start = Clock::now();
  const Description description = Describe(run, options);
  StepOptions step_options;
  step_options.router_z_weight = options.router_z_weight;
  step_options.lm_z_weight = options.lm_z_weight;
  step_options.clip_norm = options.clip_norm;
  step_options.weight_decay = options.weight_decay;
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
  const Schedule schedule = {options.steps, options.warmup_steps,
                             options.learning_rate, options.final_lr_fraction};
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
