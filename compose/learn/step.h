// SPDX-License-Identifier: Apache-2.0
// One training step of any decoder: token sequences in; loss, gradients and,
// when asked for, moved weights out. Knows nothing of files, schedules or
// where sequences come from. The loss:
//   CE + lm_z * mean lse(logits)^2
//      + sum_l (router_z * mean lse(router)^2 + balance * E sum_e u_e P_e)
// with means over all of the batch, whatever pieces it is computed in; the
// shares u are of all pieces so far (METHODS 7).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "compose/learn/optimizer.h"
#include "compose/learn/tape.h"
#include "compose/math/arena.h"
#include "compose/model/decoder.h"

namespace motet::learn {

struct StepOptions {
  double router_z_weight = 0;
  double lm_z_weight = 0;
  double load_balance_weight = 0;
  bool load_balance_counts = false;  // u by choices, not by gates
  double clip_norm = 1.0;     // <= 0: no clipping
  double weight_decay = 0;
  // A batch is computed in that many pieces, one after another, whose
  // gradients add up: the same step but for rounding, in less memory.
  int64_t accumulation = 1;
  // So many layers (from the first) keep only their result and run again in
  // the backward pass: the same bits, in less memory. -1: all of them.
  int64_t recompute_layers = 0;  // must be 0 with a load-balance weight
  // Called before each piece of a batch: for routers that draw.
  std::function<void(int64_t piece)> before_piece;
  math::Product product = math::Product::kLibrary;
};

struct StepResult {
  double loss = 0;           // cross entropy and the weighted z-losses
  double cross_entropy = 0;  // mean over all positions that have a next token
  double router_z = 0;       // sum over layers of mean lse^2, all positions
  double load_balance = 0;   // sum over layers, not weighted
  double lm_z = 0;           // mean lse^2, positions that have a next token
  double gradient_norm = 0;  // before clipping
  int64_t tokens = 0;        // of the batch; only contrastive steps say so
  bool applied = false;      // false: not finite, no weight was touched
};

using Sequences = std::span<const std::span<const int32_t>>;

// Of a whole batch: what its means divide by.
struct Counts {
  int64_t rows = 0, targets = 0;
};
Counts CountsOf(Sequences sequences);

// By layer: what Exec::LoadBalance adds up over the pieces of a batch.
using BalanceTotals = std::vector<std::vector<double>>;

// Activations of one step are tens of megabytes and more; blocks of this
// size leave little unused at their ends.
inline constexpr int64_t kStepArenaBlock = int64_t{64} << 20;

// Forward and backward over a piece of a batch of these counts: its share of
// the loss. Gradients add up in the tape's watched tensors. `results` and
// `gradients` (the tape's) are reset first. totals: empty before the first
// piece of a batch.
StepResult RunPiece(const model::Decoder& decoder,
                    const math::Kernels& kernels, Sequences piece,
                    const Counts& counts, const StepOptions& options,
                    math::Arena& results, math::Arena& gradients, Tape& tape,
                    BalanceTotals& totals);

// Consecutive parts of a batch of about equal rows.
std::vector<Sequences> Pieces(Sequences sequences, int64_t pieces);

class Stepper {
 public:
  // The decoder and the kernels must outlive the stepper; the parameters'
  // values lie in the decoder's weights.
  Stepper(const model::Decoder& decoder, std::vector<Parameter> parameters,
          const StepOptions& options,
          const math::Kernels& kernels = math::Cpu());

  // Forward and backward. The gradients then lie in optimizer().items()
  // until the next call. `applied` stays false.
  StepResult Gradients(Sequences sequences);
  // The same, then AdamW, unless loss or gradient norm is not finite.
  StepResult Step(Sequences sequences, double learning_rate);
  // AdamW by the gradients that are there; sets `applied`.
  void Apply(StepResult& result, double learning_rate);
  // The loss alone, forward only, in pieces no larger than a step's.
  StepResult Evaluate(Sequences sequences);

  Optimizer& optimizer() { return optimizer_; }
  // Of activations and their gradients.
  int64_t peak_bytes() const {
    return arena_.peak_bytes() + gradients_.peak_bytes();
  }

 private:
  const model::Decoder& decoder_;
  const math::Kernels& kernels_;
  StepOptions options_;
  math::Arena arena_, gradients_;
  Tape tape_;
  Optimizer optimizer_;
};

// The loss alone, forward only.
StepResult Evaluate(const model::Decoder& decoder, Sequences sequences,
                    const StepOptions& options,
                    const math::Kernels& kernels = math::Cpu());

}  // namespace motet::learn
