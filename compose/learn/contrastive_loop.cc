// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/contrastive_loop.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/learn/schedule.h"
#include "proto/error.h"

namespace motet::learn {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMaxSkippedInARow = 5;
constexpr int64_t kCurvePoints = 200;  // of a loss curve, about

// From the first step, or a checkpoint's, to the last.
class Loop {
 public:
  Loop(const ContrastiveRun& run, const OnProgress& progress)
      : run_(run),
        o_(run.options),
        progress_(progress),
        loss_every_(std::max<int64_t>(
            1, (o_.steps + kCurvePoints - 1) / kCurvePoints)) {}

  absl::StatusOr<TrainResult> Go() {
    if (!o_.checkpoint_path.empty()) {
      MOTET_RETURN_IF_ERROR(LoadCheckpoint(o_.checkpoint_path, run_.description,
                                           state_, *run_.optimizer)
                                .status());
    }
    seconds_before_ = state_.seconds;
    const int64_t first = state_.step;
    Schedule schedule;
    schedule.steps = o_.steps;
    schedule.warmup_steps = static_cast<int64_t>(o_.warmup_fraction *
                                                 static_cast<double>(o_.steps));
    schedule.peak = o_.learning_rate;
    schedule.final_fraction = 0;
    schedule.shape = ScheduleShape::kLinear;
    while (state_.step < o_.steps) {
      const double rate = LearningRate(schedule, state_.step + 1);
      const StepResult result = Step(rate);
      if (state_.skipped_in_a_row >= kMaxSkippedInARow) {
        return proto::Error(
            absl::StatusCode::kAborted, absl::StrCat("training of ", run_.name),
            absl::StrCat("loss ", result.loss, " and gradient norm ",
                         result.gradient_norm, " at step ", state_.step, ", ",
                         kMaxSkippedInARow, " such steps in a row"),
            "finite numbers", "lower the learning rate");
      }
      const bool go_on = !progress_ || progress_(Report(result, rate, first));
      const bool due =
          o_.checkpoint_every > 0 && state_.skipped_in_a_row == 0 &&
          (state_.step % o_.checkpoint_every == 0 || state_.step == o_.steps);
      if ((due || !go_on) && !o_.checkpoint_path.empty()) {
        MOTET_RETURN_IF_ERROR(SaveCheckpoint(
            o_.checkpoint_path, run_.description, state_, *run_.optimizer));
      }
      if (!go_on) {
        return absl::CancelledError(
            absl::StrCat("[training of ", run_.name, "] stopped after step ",
                         state_.step, " of ", o_.steps));
      }
    }
    return Result();
  }

 private:
  StepResult Step(double rate) {
    StepResult result = run_.gradients(state_.step);
    state_.tokens += result.tokens;
    tokens_ += result.tokens;
    if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm)) {
      run_.apply(result, rate);
      state_.group_sum += result.loss;
      ++state_.group_count;
    }
    ++state_.step;
    state_.seconds = seconds_before_ + Seconds();
    state_.skipped += result.applied ? 0 : 1;
    state_.skipped_in_a_row = result.applied ? 0 : state_.skipped_in_a_row + 1;
    if ((state_.step % loss_every_ == 0 || state_.step == o_.steps) &&
        state_.group_count > 0) {
      state_.curve.push_back(state_.group_sum /
                             static_cast<double>(state_.group_count));
      state_.group_sum = 0;
      state_.group_count = 0;
    }
    return result;
  }

  double Seconds() const {
    return std::chrono::duration<double>(Clock::now() - start_).count();
  }

  TrainProgress Report(const StepResult& result, double rate,
                       int64_t first) const {
    TrainProgress report;
    report.step = state_.step;
    report.steps = o_.steps;
    report.loss = result.loss;
    report.gradient_norm = result.gradient_norm;
    report.learning_rate = rate;
    report.seconds = Seconds();
    report.tokens_per_second = static_cast<double>(tokens_) / report.seconds;
    report.eta_seconds = report.seconds /
                         static_cast<double>(state_.step - first) *
                         static_cast<double>(o_.steps - state_.step);
    report.skipped = state_.skipped;
    return report;
  }

  TrainResult Result() const {
    TrainResult result;
    result.loss_curve = state_.curve;
    result.loss_every = loss_every_;
    result.steps = state_.step;
    result.tokens = state_.tokens;
    result.skipped = state_.skipped;
    result.seconds = state_.seconds;
    return result;
  }

  const Clock::time_point start_ = Clock::now();
  const ContrastiveRun& run_;
  const ContrastiveOptions& o_;
  const OnProgress& progress_;
  const int64_t loss_every_;
  RunState state_;
  double seconds_before_ = 0;
  int64_t tokens_ = 0;  // of this process
};

}  // namespace

std::vector<std::string> WrongOptions(const ContrastiveOptions& o) {
  std::vector<std::string> reasons;
  const auto want = [&](bool fine, const auto&... reason) {
    if (!fine) reasons.push_back(absl::StrCat(reason...));
  };
  want(o.steps >= 1, o.steps, " steps (want at least 1)");
  want(std::isfinite(o.temperature) && o.temperature > 0, "temperature ",
       o.temperature, " (want above 0)");
  want(std::isfinite(o.learning_rate) && o.learning_rate > 0, "learning rate ",
       o.learning_rate, " (want above 0)");
  want(o.warmup_fraction >= 0 && o.warmup_fraction <= 1, "a warm-up of ",
       o.warmup_fraction, " of the steps (want 0 to 1)");
  want(o.weight_decay >= 0, "weight decay ", o.weight_decay,
       " (want at least 0)");
  want(o.product != math::Product::kBf16 || math::HasBf16(),
       "bf16 arithmetic, which this processor lacks");
  want(o.checkpoint_every <= 0 || !o.checkpoint_path.empty(),
       "checkpoint_every without a checkpoint_path");
  return reasons;
}

Description Describe(const ContrastiveOptions& o) {
  const auto exact = [](double value) {
    return absl::StrFormat("%.17g", value);
  };
  return {absl::StrCat("steps = ", o.steps),
          absl::StrCat("temperature = ", exact(o.temperature)),
          absl::StrCat("learning_rate = ", exact(o.learning_rate)),
          absl::StrCat("warmup_fraction = ", exact(o.warmup_fraction)),
          absl::StrCat("clip_norm = ", exact(o.clip_norm)),
          absl::StrCat("weight_decay = ", exact(o.weight_decay)),
          absl::StrCat("seed = ", o.seed),
          absl::StrCat("arithmetic = ",
                       o.product == math::Product::kBf16    ? "bf16"
                       : o.product == math::Product::kExact ? "f32"
                                                            : "library")};
}

absl::StatusOr<TrainResult> RunContrastive(const ContrastiveRun& run,
                                           const OnProgress& progress) {
  return Loop(run, progress).Go();
}

}  // namespace motet::learn
