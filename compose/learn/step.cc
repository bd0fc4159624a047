// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/step.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

namespace motet::learn {
namespace {

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

int64_t Rows(Sequences sequences) {
  int64_t rows = 0;
  for (std::span<const int32_t> ids : sequences) {
    rows += static_cast<int64_t>(ids.size());
  }
  return rows;
}

// One piece's share of the batch's loss [METHODS 1], added to `result`. The
// means of all pieces add up to those of the batch.
void Forward(const model::Decoder& decoder, math::Exec& exec,
             const model::Batch& batch, std::span<const int32_t> targets,
             const Counts& counts, const StepOptions& options,
             BalanceTotals& totals, StepResult& result) {
  model::Trace trace;
  const int64_t experts = decoder.config().experts;
  const bool balanced = experts > 0 && options.load_balance_weight != 0;
  const bool routed =
      balanced || (experts > 0 && options.router_z_weight != 0);
  const math::Tensor hidden =
      decoder.Forward(exec, batch, routed ? &trace : nullptr);
  double parts[2] = {};
  result.loss += exec.HeadLoss(hidden, decoder.weights().head, targets,
                               counts.targets, options.lm_z_weight, parts);
  result.cross_entropy += parts[0];
  result.lm_z += parts[1];
  const double share = counts.rows == 0
                           ? 0
                           : static_cast<double>(batch.rows()) /
                                 static_cast<double>(counts.rows);
  const double weight = options.router_z_weight * share;
  for (const math::Tensor& router_logits : trace.router_logits) {
    const double mean = exec.RouterZ(router_logits, weight);
    result.router_z += share * mean;
    result.loss += weight * mean;
  }
  if (!balanced) return;
  MOTET_CHECK(options.recompute_layers == 0);
  const double balance = options.load_balance_weight * share;
  totals.resize(trace.routing.size());
  for (size_t l = 0; l < totals.size(); ++l) {
    totals[l].resize(static_cast<size_t>(experts) + 1);
    const double value =
        exec.LoadBalance(trace.router_logits[l], trace.routing[l],
                         options.load_balance_counts, totals[l], balance,
                         model::SharedFfns(decoder.router()));
    result.load_balance += share * value;
    result.loss += balance * value;
  }
}

}  // namespace

Counts CountsOf(Sequences sequences) {
  Counts counts;
  counts.rows = Rows(sequences);
  for (std::span<const int32_t> ids : sequences) {
    counts.targets += std::max<int64_t>(0, std::ssize(ids) - 1);
  }
  return counts;
}

std::vector<Sequences> Pieces(Sequences sequences, int64_t pieces) {
  std::vector<Sequences> result;
  const int64_t rows = Rows(sequences);
  int64_t before = 0;
  size_t first = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    before += std::ssize(sequences[i]);
    const int64_t due = std::ssize(result) + 1;
    if (before * pieces < due * rows && i + 1 < sequences.size()) continue;
    result.push_back(sequences.subspan(first, i + 1 - first));
    first = i + 1;
  }
  return result;
}

Stepper::Stepper(const model::Decoder& decoder,
                 std::vector<Parameter> parameters,
                 const StepOptions& options, const math::Kernels& kernels)
    : decoder_(decoder),
      kernels_(kernels),
      options_(options),
      arena_(kStepArenaBlock),
      gradients_(kStepArenaBlock),
      tape_(gradients_),
      optimizer_(std::move(parameters), tape_) {}

StepResult RunPiece(const model::Decoder& decoder,
                    const math::Kernels& kernels, Sequences piece,
                    const Counts& counts, const StepOptions& options,
                    math::Arena& results, math::Arena& gradients, Tape& tape,
                    BalanceTotals& totals) {
  tape.Forget();
  results.Reset();
  gradients.Reset();
  tape.RecomputeNext(options.recompute_layers < 0 ? decoder.config().layers
                                                  : options.recompute_layers);
  const std::vector<model::SequenceInput> inputs = Inputs(piece);
  const model::Batch batch(inputs);
  const std::vector<int32_t> targets = NextTokens(piece);
  math::Exec exec(kernels, results, options.product, &tape);
  StepResult result;
  Forward(decoder, exec, batch, targets, counts, options, totals, result);
  tape.Backward();
  return result;
}

StepResult Stepper::Gradients(Sequences sequences) {
  tape_.Reset();
  const Counts counts = CountsOf(sequences);
  StepResult sum;
  BalanceTotals totals;
  int64_t index = 0;
  for (Sequences piece : Pieces(sequences, options_.accumulation)) {
    if (options_.before_piece) options_.before_piece(index++);
    const StepResult part =
        RunPiece(decoder_, kernels_, piece, counts, options_, arena_,
                 gradients_, tape_, totals);
    sum.loss += part.loss;
    sum.cross_entropy += part.cross_entropy;
    sum.router_z += part.router_z;
    sum.load_balance += part.load_balance;
    sum.lm_z += part.lm_z;
  }
  tape_.Settle();  // of a batch without pieces, too
  sum.gradient_norm = optimizer_.GradientNorm();
  return sum;
}

StepResult Stepper::Step(Sequences sequences, double learning_rate) {
  StepResult result = Gradients(sequences);
  if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm)) {
    Apply(result, learning_rate);
  }
  return result;
}

void Stepper::Apply(StepResult& result, double learning_rate) {
  optimizer_.Step(kernels_, learning_rate, options_.weight_decay,
                  result.gradient_norm, options_.clip_norm);
  result.applied = true;
}

StepResult Stepper::Evaluate(Sequences sequences) {
  const Counts counts = CountsOf(sequences);
  StepResult result;
  BalanceTotals totals;
  for (Sequences piece : Pieces(sequences, options_.accumulation)) {
    arena_.Reset();
    const std::vector<model::SequenceInput> inputs = Inputs(piece);
    const model::Batch batch(inputs);
    math::Exec exec(kernels_, arena_, options_.product);
    Forward(decoder_, exec, batch, NextTokens(piece), counts, options_,
            totals, result);
  }
  return result;
}

StepResult Evaluate(const model::Decoder& decoder, Sequences sequences,
                    const StepOptions& options, const math::Kernels& kernels) {
  return Stepper(decoder, {}, options, kernels).Evaluate(sequences);
}

}  // namespace motet::learn
