// SPDX-License-Identifier: Apache-2.0
// The step loop. What a run is made of stands in dense_run.cc and
// owner_run.cc; what it may be made of in run_check.cc; what one step does
// in step.cc.
#include "compose/learn/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/freeze.h"
#include "compose/learn/loop.h"
#include "compose/learn/schedule.h"
#include "compose/learn/spikes.h"
#include "compose/learn/step.h"
#include "proto/error.h"

namespace motet::learn {
namespace {

// So many skipped steps in a row end a run: the weights do not move any
// more, nothing will become better.
constexpr int64_t kMaxSkippedInARow = 5;
// A loss curve has about as many points.
constexpr int64_t kCurvePoints = 200;

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What a model reads of window i: all of it, or its documents one by one.
void AddWindow(const TokenWindows& windows, int64_t i, bool documents,
               std::vector<std::span<const int32_t>>& sequences) {
  if (!documents) return sequences.push_back(windows.at(i));
  for (std::span<const int32_t> part : windows.documents(i)) {
    sequences.push_back(part);
  }
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

StepOptions StepOptionsOf(const Run& run, const TrainOptions& options) {
  StepOptions step;
  step.router_z_weight = options.router_z_weight;
  step.lm_z_weight = options.lm_z_weight;
  step.load_balance_weight = options.load_balance_weight;
  step.load_balance_counts = options.load_balance_counts;
  step.clip_norm = options.clip_norm;
  step.weight_decay = options.weight_decay;
  step.accumulation = options.accumulation;
  step.product = options.product;
  step.recompute_layers = options.recompute_layers;
  if (options.memory_bytes > 0 && step.recompute_layers >= 0) {
    step.recompute_layers = std::max(
        step.recompute_layers,
        LayersToRecompute(*run.decoder, run.parameters, step,
                          options.batch_sequences, options.sequence_tokens,
                          options.memory_bytes));
  }
  return step;
}

// One run from its first step, or its checkpoint's, to its last. Everything
// that later steps depend on is in state_ and in the optimiser; both are what
// a checkpoint holds.
class Loop {
 public:
  Loop(const Run& run, const TrainOptions& options,
       const OnProgress& progress, Description description)
      : run_(run),
        options_(options),
        progress_(progress),
        description_(std::move(description)),
        plan_(run.own->count(),
              run.public_text ? run.public_text->count() : 0,
              options.batch_sequences, options.public_fraction, options.seed),
        step_options_(WithPieces(StepOptionsOf(run, options))),
        stepper_(*run.decoder, run.parameters, step_options_),
        spikes_(options.spike_sigma, options.spike_window),
        end_(options.stop_step > 0 ? options.stop_step : options.steps),
        loss_every_(
            std::max<int64_t>(1, (end_ + kCurvePoints - 1) / kCurvePoints)) {}

  absl::StatusOr<TrainResult> Go() {
    MOTET_RETURN_IF_ERROR(Load());
    const Schedule schedule = {options_.steps,
                               options_.warmup_steps,
                               options_.learning_rate,
                               options_.final_lr_fraction,
                               options_.schedule,
                               options_.decay_fraction};
    first_step_ = state_.step;
    first_started_ = Clock::now();
    while (state_.step < end_ && !state_.stopped_early) {
      const double rate = LearningRate(schedule, state_.step + 1);
      const StepResult result = Step(rate);
      if (state_.skipped_in_a_row >= kMaxSkippedInARow) {
        return CannotRecover(result);
      }
      const bool evaluated = Evaluate();
      const bool go_on =
          !progress_ || progress_(Report(result, rate, evaluated));
      const bool last =
          state_.step == end_ || state_.stopped_early;
      // Not amid skipped steps: were the run to end by them, the file would
      // be of the time before.
      const bool due = options_.checkpoint_every > 0 &&
                       state_.skipped_in_a_row == 0 &&
                       state_.step % options_.checkpoint_every == 0;
      if (due || !go_on || (last && options_.checkpoint_every > 0)) {
        MOTET_RETURN_IF_ERROR(Save());
      }
      if (!go_on) {
        return absl::CancelledError(
            absl::StrCat("[training of ", run_.name, "] stopped after step ",
                         state_.step, " of ", end_));
      }
    }
    TakeBest();
    return Result();
  }

 private:
  StepOptions WithPieces(StepOptions options) const {
    if (run_.before_piece) {
      options.before_piece = [this](int64_t piece) {
        run_.before_piece(state_.step, piece);
      };
    }
    return options;
  }

  absl::Status Load() {
    if (options_.checkpoint_path.empty()) return absl::OkStatus();
    MOTET_ASSIGN_OR_RETURN(
        const bool found,
        LoadCheckpoint(options_.checkpoint_path, description_, state_,
                       stepper_.optimizer()));
    if (found) saved_step_ = state_.step;
    spikes_.set_losses(state_.losses);
    seconds_before_ = state_.seconds;
    return absl::OkStatus();
  }

  absl::Status Save() {
    if (options_.checkpoint_path.empty()) return absl::OkStatus();
    state_.losses = spikes_.losses();
    MOTET_RETURN_IF_ERROR(SaveCheckpoint(options_.checkpoint_path,
                                         description_, state_,
                                         stepper_.optimizer()));
    saved_step_ = state_.step;
    return absl::OkStatus();
  }

  // A step on the next windows, or the decision not to take it.
  StepResult Step(double rate) {
    std::vector<std::span<const int32_t>> sequences;
    for (const BatchPlan::Pick& pick : plan_.at(state_.step)) {
      AddWindow(pick.from_public ? *run_.public_text : *run_.own, pick.window,
                options_.document_boundaries, sequences);
    }
    StepResult result = stepper_.Gradients(sequences);
    const bool finite =
        std::isfinite(result.loss) && std::isfinite(result.gradient_norm);
    const bool spike = finite && spikes_.IsSpike(result.loss);
    if (finite && !spike) {
      stepper_.Apply(result, rate);
      spikes_.Add(result.loss);
    }
    ++state_.step;
    state_.seconds = seconds_before_ + SecondsSince(start_);
    state_.skipped += result.applied ? 0 : 1;
    state_.spikes += spike ? 1 : 0;
    state_.skipped_in_a_row =
        result.applied ? 0 : state_.skipped_in_a_row + 1;
    AddLoss(result.loss, loss_every_, end_, state_);
    return result;
  }

  // When it is due: the mean over all positions of the held-out windows that
  // have a next token, and what follows from it.
  bool Evaluate() {
    const bool due = options_.evaluate_every > 0 &&
                     (state_.step % options_.evaluate_every == 0 ||
                      state_.step == end_);
    if (!due) return false;
    const TokenWindows& windows = *run_.held_out;
    const int64_t count =
        options_.evaluate_windows == 0
            ? windows.count()
            : std::min(options_.evaluate_windows, windows.count());
    double sum = 0;
    int64_t targets = 0;
    for (int64_t first = 0; first < count;
         first += options_.batch_sequences) {
      std::vector<std::span<const int32_t>> sequences;
      for (int64_t i = first;
           i < std::min(count, first + options_.batch_sequences); ++i) {
        AddWindow(windows, i, options_.document_boundaries, sequences);
      }
      int64_t here = 0;
      for (const auto& ids : sequences) here += std::ssize(ids) - 1;
      sum += stepper_.Evaluate(sequences).cross_entropy *
             static_cast<double>(here);
      targets += here;
    }
    const Evaluation now = {
        state_.step,
        sum / static_cast<double>(std::max<int64_t>(1, targets))};
    state_.evaluations.push_back(now);
    if (std::isfinite(now.loss) &&
        (state_.best.step == 0 || now.loss < state_.best.loss)) {
      state_.best = now;
      state_.stale = 0;
      KeepWeights();
    } else {
      ++state_.stale;
    }
    state_.stopped_early =
        options_.patience > 0 && state_.stale >= options_.patience;
    return true;
  }

  void KeepWeights() {
    if (options_.patience == 0) return;  // nobody will ask for them
    const std::vector<Optimizer::Item>& items = stepper_.optimizer().items();
    state_.best_weights.resize(items.size());
    for (size_t i = 0; i < items.size(); ++i) {
      const math::Tensor& value = items[i].parameter.value;
      state_.best_weights[i].assign(value.f32(), value.f32() + value.size());
    }
  }

  void TakeBest() {
    for (size_t i = 0; i < state_.best_weights.size(); ++i) {
      math::Tensor value = stepper_.optimizer().items()[i].parameter.value;
      std::copy(state_.best_weights[i].begin(), state_.best_weights[i].end(),
                value.f32());
    }
  }

  absl::Status CannotRecover(const StepResult& result) const {
    const std::string checkpoint =
        saved_step_ > 0
            ? absl::StrCat("the last good checkpoint is ",
                           options_.checkpoint_path, ", of step ", saved_step_)
            : "no checkpoint was written yet";
    return proto::Error(
        absl::StatusCode::kAborted, absl::StrCat("training of ", run_.name),
        absl::StrCat("loss ", result.loss, " and gradient norm ",
                     result.gradient_norm, " at step ", state_.step, ", ",
                     kMaxSkippedInARow, " such steps in a row"),
        "finite numbers and no spike",
        absl::StrCat("lower the learning rate or lengthen the warm-up; ",
                     checkpoint));
  }

  int64_t StepTokens() const {
    return options_.batch_sequences * options_.sequence_tokens;
  }

  TrainProgress Report(const StepResult& result, double rate,
                       bool evaluated) const {
    TrainProgress report;
    report.step = state_.step;
    report.steps = end_;
    report.loss = result.loss;
    report.gradient_norm = result.gradient_norm;
    report.learning_rate = rate;
    const double per_step = SecondsSince(first_started_) /
                            static_cast<double>(state_.step - first_step_);
    report.tokens_per_second = static_cast<double>(StepTokens()) / per_step;
    report.eta_seconds =
        per_step * static_cast<double>(end_ - state_.step);
    report.seconds = SecondsSince(start_);
    report.skipped = state_.skipped;
    report.spikes = state_.spikes;
    report.evaluated = evaluated;
    if (evaluated) report.evaluation = state_.evaluations.back().loss;
    report.best = state_.best;
    return report;
  }

  TrainResult Result() const {
    TrainResult result;
    result.loss_curve = state_.curve;
    result.loss_every = loss_every_;
    result.steps = state_.step;
    result.tokens = state_.step * StepTokens();
    result.skipped = state_.skipped;
    result.spikes = state_.spikes;
    result.evaluations = state_.evaluations;
    result.best = state_.best;
    result.stopped_early = state_.stopped_early;
    result.memory = PlanStep(*run_.decoder, run_.parameters, step_options_,
                             options_.batch_sequences,
                             options_.sequence_tokens);
    for (const std::vector<float>& best : state_.best_weights) {
      result.memory.trained += std::ssize(best) * int64_t{sizeof(float)};
    }
    result.seconds = state_.seconds;
    return result;
  }

  const Clock::time_point start_ = Clock::now();
  const Run& run_;
  const TrainOptions& options_;
  const OnProgress& progress_;
  const Description description_;
  const BatchPlan plan_;
  const StepOptions step_options_;
  Stepper stepper_;
  SpikeDetector spikes_;
  const int64_t end_;  // the last step
  const int64_t loss_every_;
  RunState state_;
  int64_t saved_step_ = 0;  // of the file
  int64_t first_step_ = 0;  // of this process
  double seconds_before_ = 0;
  Clock::time_point first_started_;
};

}  // namespace

absl::StatusOr<TrainResult> RunTraining(Run run, const TrainOptions& asked,
                                        const OnProgress& progress) {
  const TrainOptions options = Resolved(asked);
  Description description = Describe(run, options);
  MOTET_ASSIGN_OR_RETURN(
      run.parameters, WithoutFrozen(std::move(run.parameters), options.freeze));
  return Loop(run, options, progress, std::move(description)).Go();
}

}  // namespace motet::learn
