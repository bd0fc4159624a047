// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/contrastive_loop.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/strings/str_cat.h"
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
        progress_(progress),
        loss_every_(std::max<int64_t>(
            1, (run.steps + kCurvePoints - 1) / kCurvePoints)) {}

  absl::StatusOr<TrainResult> Go() {
    if (!run_.checkpoint_path.empty()) {
      MOTET_RETURN_IF_ERROR(LoadCheckpoint(run_.checkpoint_path,
                                           run_.description, state_,
                                           *run_.optimizer)
                                .status());
    }
    seconds_before_ = state_.seconds;
    const int64_t first = state_.step;
    Schedule schedule;
    schedule.steps = run_.steps;
    schedule.warmup_steps = static_cast<int64_t>(
        run_.warmup_fraction * static_cast<double>(run_.steps));
    schedule.peak = run_.learning_rate;
    schedule.final_fraction = 0;
    schedule.shape = ScheduleShape::kLinear;
    while (state_.step < run_.steps) {
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
      const bool go_on =
          !progress_ || progress_(Report(result, rate, first));
      const bool due = run_.checkpoint_every > 0 &&
                       state_.skipped_in_a_row == 0 &&
                       (state_.step % run_.checkpoint_every == 0 ||
                        state_.step == run_.steps);
      if ((due || !go_on) && !run_.checkpoint_path.empty()) {
        MOTET_RETURN_IF_ERROR(SaveCheckpoint(run_.checkpoint_path,
                                             run_.description, state_,
                                             *run_.optimizer));
      }
      if (!go_on) {
        return absl::CancelledError(
            absl::StrCat("[training of ", run_.name, "] stopped after step ",
                         state_.step, " of ", run_.steps));
      }
    }
    return Result();
  }

 private:
  StepResult Step(double rate) {
    tokens_ += run_.tokens(state_.step);
    StepResult result = run_.gradients(state_.step);
    if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm)) {
      run_.apply(result, rate);
      state_.group_sum += result.loss;
      ++state_.group_count;
    }
    ++state_.step;
    state_.seconds = seconds_before_ + Seconds();
    state_.skipped += result.applied ? 0 : 1;
    state_.skipped_in_a_row =
        result.applied ? 0 : state_.skipped_in_a_row + 1;
    if ((state_.step % loss_every_ == 0 || state_.step == run_.steps) &&
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
    report.steps = run_.steps;
    report.loss = result.loss;
    report.gradient_norm = result.gradient_norm;
    report.learning_rate = rate;
    report.seconds = Seconds();
    report.tokens_per_second = static_cast<double>(tokens_) / report.seconds;
    report.eta_seconds = report.seconds /
                         static_cast<double>(state_.step - first) *
                         static_cast<double>(run_.steps - state_.step);
    report.skipped = state_.skipped;
    return report;
  }

  TrainResult Result() const {
    TrainResult result;
    result.loss_curve = state_.curve;
    result.loss_every = loss_every_;
    result.steps = state_.step;
    for (int64_t step = 0; step < state_.step; ++step) {
      result.tokens += run_.tokens(step);
    }
    result.skipped = state_.skipped;
    result.seconds = state_.seconds;
    return result;
  }

  const Clock::time_point start_ = Clock::now();
  const ContrastiveRun& run_;
  const OnProgress& progress_;
  const int64_t loss_every_;
  RunState state_;
  double seconds_before_ = 0;
  int64_t tokens_ = 0;  // of this process
};

}  // namespace

absl::StatusOr<TrainResult> RunContrastive(const ContrastiveRun& run,
                                           const OnProgress& progress) {
  return Loop(run, progress).Go();
}

}  // namespace motet::learn
