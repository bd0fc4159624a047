// SPDX-License-Identifier: Apache-2.0
// The two training runs of first light: a dense base from nothing, and an
// owner's FlexOlmo run beside it (METHODS 1). Both are step loops over one
// Trainer: forward by the decoder, backward by the tape, AdamW, atomic
// checkpoints, exact resume.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compose/learn/checkpoint.h"
#include "compose/learn/corpus.h"
#include "compose/learn/memory.h"
#include "compose/learn/optimizer.h"
#include "compose/learn/schedule.h"
#include "compose/model/decoder.h"
#include "compose/package/huggingface.h"

namespace motet::learn {

struct TrainOptions {
  int64_t steps = 0;             // of the schedule
  int64_t stop_step = 0;         // leaves the schedule after this one; 0 = goes
                                 // to its end
  int64_t batch_sequences = 8;   // B
  int64_t sequence_tokens = 128; // T
  double learning_rate = 1e-3;
  int64_t warmup_steps = -1;     // linear from lr / warmup; -1: a tenth of
                                 // the steps, at most 20
  ScheduleShape schedule = ScheduleShape::kCosine;  // after the warm-up
  double final_lr_fraction = 0.1;  // share of the rate at the last step
  double decay_fraction = 0.2;   // of "warmup-stable-decay"
  int64_t accumulation = 1;      // pieces that a batch is computed in
  int64_t recompute_layers = 0;  // that run again in the backward pass to
                                 // save memory; -1: all
  int64_t memory_bytes = 0;      // > 0: recompute as many more layers as a
                                 // step needs to stay within (memory.h)
  std::vector<std::string> freeze;  // patterns of names (freeze.h)
  // Attention, positions and targets begin anew with each document of a
  // window; false: its documents see those in front of them.
  bool document_boundaries = false;
  int64_t evaluate_every = 0;    // steps; 0 = never
  int64_t evaluate_windows = 64;  // held-out ones, from the first; 0 = all
  int64_t patience = 0;          // evaluations without a better one that end
                                 // the run; its best weights are returned.
                                 // 0 = run to the end, keep the last
  double spike_sigma = 6;        // deviations above the mean (spikes.h); 0 =
                                 // no loss is a spike
  int64_t spike_window = 128;    // losses that mean and deviation are of
  // kBf16 only where math::HasBf16(): products round their operands to bf16
  // and sum in f32; weights, gradients and AdamW's state stay f32.
  math::Product product = math::Product::kLibrary;
  double clip_norm = 1.0;
  double weight_decay = 0.0;     // on tensors of two or more dimensions
  double router_z_weight = 0.0;
  double lm_z_weight = 0.0;
  double load_balance_weight = 0.0;
  bool load_balance_counts = false;  // shares by choices, not by gates
  double public_fraction = 0.0;
  uint64_t seed = 1;
  int64_t checkpoint_every = 0;  // steps; 0 = never
  std::string checkpoint_path;   // one file, replaced atomically; resumed
                                 // from when it fits this run, refused with
                                 // a clear error when it does not. A finished
                                 // run leaves it: the caller removes it
};
struct TrainProgress {
  int64_t step = 0, steps = 0;   // step: finished ones
  double loss = 0;               // of the last step, z-losses included
  double gradient_norm = 0;      // before clipping
  double learning_rate = 0;
  double tokens_per_second = 0;
  double eta_seconds = 0;
  double seconds = 0;            // of this process
  int64_t skipped = 0;           // steps that moved nothing
  int64_t spikes = 0;            // of these: for a loss far above the others
  bool evaluated = false;        // after this step; then:
  double evaluation = 0;         // mean cross entropy of held-out windows
  Evaluation best;               // so far; step 0 = none
};
// Called after every step, before its checkpoint. false: stop after a
// checkpoint (Cancelled).
using OnProgress = std::function<bool(const TrainProgress&)>;

struct TrainResult {
  std::vector<double> loss_curve;  // mean of each loss_every steps
  int64_t loss_every = 1;
  int64_t steps = 0, tokens = 0;
  int64_t skipped = 0;             // steps that moved nothing
  int64_t spikes = 0;              // of these
  std::vector<Evaluation> evaluations;
  Evaluation best;                 // step 0 = none
  bool stopped_early = false;
  StepMemory memory;               // of a step, as stated before the first
  double seconds = 0;              // over all resumes
};

// A model that owns its numbers: for training from nothing.
struct OwnedModel {
  model::ModelConfig config;
  model::ModelWeights weights;
  std::vector<std::unique_ptr<float[]>> storage;
};
// Normal(0, 0.02), output projections scaled by 1/sqrt(2L), norms 1.
// The same bits for the same seed, on any number of threads.
OwnedModel InitialModel(const model::ModelConfig& config, uint64_t seed);
// A copy in f32 of weights that fit the config, to be trained on.
OwnedModel CopyModel(const model::ModelConfig& config,
                     const model::ModelWeights& weights);
// f32, bf16 or f16 to f32; equal sizes.
void Widen(const math::Tensor& from, math::Tensor to);

// Every tensor of the model, for a training step.
std::vector<Parameter> DenseParameters(OwnedModel& model);

absl::StatusOr<TrainResult> TrainDense(OwnedModel& model,
                                       const TokenWindows& windows,
                                       const TrainOptions& options,
                                       const OnProgress& progress,
                                       const TokenWindows* held_out = nullptr);

// What an owner's run leaves: own FFN, row and bias of every layer.
struct OwnerExpert {
  struct Layer {
    model::FfnWeights ffn;  // views into storage, as all of these
    math::Tensor router;    // [2,C]: the base's row, then the own row
    math::Tensor row;       // [C]; row 1 of router
    math::Tensor bias;      // [1]
  };
  std::vector<Layer> layers;
  std::vector<std::unique_ptr<float[]>> storage;
};
// Room for an expert of the base's shapes: everything zero but the base's
// row. Fill ffn, row and bias to make an expert from a package.
OwnerExpert NewOwnerExpert(const package::LoadedModel& base);
// What an owner's run trains: own FFNs, rows and biases.
std::vector<Parameter> OwnerParameters(OwnerExpert& expert,
                                       bool alone = false, bool bias = true);

// Router rows before training. Row 0 (the base's) and the owner's own row,
// each [C] a layer. The base's row is part of the base: zeros when the base
// has none; the own row starts from the mean of the base's router inputs
// over own documents minus that over public ones, scaled to norm
// `row_norm` (documented in the manifest as provenance).
struct OwnerOptions : TrainOptions {
  double row_norm = 0.5;
  // [C]: the own row's direction in every layer instead, e.g. an embedder's
  // difference of the same means. Empty: as above. Not of `alone`.
  std::vector<double> row_direction;
  // The own FFN in the base's place, nothing beside it: no row and no bias
  // are trained, and the row that leaves is the own mean, scaled to norm 1.
  bool alone = false;
  bool bias = true;  // false: the owner's bias stays 0
};
absl::StatusOr<OwnerExpert> TrainOwner(const package::LoadedModel& base,
                                       const TokenWindows& own,
                                       const TokenWindows& public_text,
                                       const OwnerOptions& options,
                                       const OnProgress& progress,
                                       TrainResult* result,
                                       const TokenWindows* held_out = nullptr);

// The base alone. A view: the base must outlive it.
absl::StatusOr<model::Decoder> BaseDecoder(const package::LoadedModel& base);
// A two-expert decoder over base and expert (base FFN frozen as expert 0),
// as the owner trained it, bias included. Views only: both must outlive it.
absl::StatusOr<model::Decoder> PairDecoder(const package::LoadedModel& base,
                                           const OwnerExpert& expert);
// The base with the expert's FFNs in place of its own: what an expert is
// trained as alone. A view, likewise.
absl::StatusOr<model::Decoder> AloneDecoder(const package::LoadedModel& base,
                                            const OwnerExpert& expert);

}  // namespace motet::learn
