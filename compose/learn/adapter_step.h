// SPDX-License-Identifier: Apache-2.0
// One step of an embedding adapter's training: queries against the vectors of
// documents, which the frozen base made and nothing changes. The loss
// [METHODS 9]:
//   mean over queries of  log sum_j exp(q.d_j / t) - q.d_target / t
// over the distinct documents of the batch, but those that are relevant to the
// query beside its target. As documents are fixed, a query's part depends on
// no other query: the batch is computed in pieces, a thread each, and the
// pieces' gradients are added in one order. Gradients are the adapter's alone.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "compose/learn/optimizer.h"
#include "compose/learn/step.h"
#include "compose/model/encoder.h"

namespace motet::learn {

struct AdapterBatch {
  std::vector<std::span<const int32_t>> queries;  // B
  std::vector<int64_t> columns;                   // N rows of the documents
  std::vector<int32_t> targets;                   // B, each below N
  std::vector<uint8_t> masked;  // [B,N]; 1: no negative of this query
};

// The share of these rows in the loss of `count` queries.
//   l_m = log sum_j exp(s_mj / t) - s_m,target / t,  j not masked
// scores: [M,N] in.   d: [M,N], += dl/ds / count; may be empty.
double ContrastiveLoss(const math::Tensor& scores,
                       std::span<const int32_t> targets,
                       std::span<const uint8_t> masked, double temperature,
                       int64_t count, math::Tensor d);

struct AdapterStepOptions {
  double temperature = 0.05;
  double clip_norm = 1.0;
  double weight_decay = 0;
  // Of the encoder's products; scores are always summed in f32.
  math::Product product = math::Product::kExact;
};

// What is trained: A and B of every adapted map.
std::vector<Parameter> AdapterParameters(const model::EncoderConfig& config,
                                         const model::Lora& lora);

class AdapterStepper {
 public:
  // documents: [N,C], the base's vectors. All must outlive the stepper.
  AdapterStepper(const model::Encoder& encoder, const model::Lora& lora,
                 const math::Tensor& documents,
                 const AdapterStepOptions& options,
                 const math::Kernels& kernels = math::Cpu());
  ~AdapterStepper();

  // Forward and backward; the gradients then lie in optimizer().items().
  // noise: the seed of this step's dropout; none: without.
  StepResult Gradients(const AdapterBatch& batch,
                       std::optional<uint64_t> noise);
  // AdamW by the gradients that are there; sets `applied`.
  void Apply(StepResult& result, double learning_rate);

  Optimizer& optimizer() { return optimizer_; }
  int64_t peak_bytes() const;  // of activations and their gradients

 private:
  struct Worker;
  // Queries [first, last) of a batch, one piece of it.
  struct Piece {
    size_t first, last;
    uint64_t number;
  };
  double RunPiece(const AdapterBatch& batch, const Piece& piece,
                  const math::Tensor& documents, std::optional<uint64_t> noise,
                  Worker& worker, float* gradients) const;
  std::unique_ptr<Worker> TakeWorker();

  const model::Encoder& encoder_;
  const model::Lora& lora_;
  const math::Tensor documents_;
  const AdapterStepOptions options_;
  const math::Kernels& kernels_;
  const std::vector<Parameter> parameters_;
  math::Arena arena_;
  Tape tape_;  // holds the summed gradients
  Optimizer optimizer_;
  std::vector<std::unique_ptr<Worker>> idle_;
  std::vector<float> sums_;  // [pieces, numbers of all parameters]
};

}  // namespace motet::learn
