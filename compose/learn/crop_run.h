// SPDX-License-Identifier: Apache-2.0
// A BERT encoder from nothing, by random crops [METHODS 9; Contriever, arXiv
// 2112.09118]: two independent crops of one document belong together, the
// second crops of the other documents of the batch are the negatives. One
// encoder reads both sides and every one of its numbers is trained:
//   mean over b of  log sum_j exp(q_b.d_j / t) - q_b.d_b / t
// with vectors of length 1. Neither a momentum encoder nor dropout.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/learn/contrastive_loop.h"
#include "compose/learn/optimizer.h"
#include "compose/learn/step.h"
#include "compose/learn/trainer.h"
#include "compose/model/encoder.h"

namespace motet::learn {

// An encoder that owns its numbers.
struct OwnedEncoder {
  model::EncoderConfig config;
  model::EncoderWeights weights;
  std::vector<std::unique_ptr<float[]>> storage;
};
// As BERT starts: Normal(0, 0.02), norms 1, biases 0. The same bits for the
// same seed. The config must have passed CheckEncoderConfig.
OwnedEncoder InitialEncoder(const model::EncoderConfig& config, uint64_t seed);
// Every tensor; weight decay on matrices.
std::vector<Parameter> EncoderParameters(OwnedEncoder& encoder);

struct CropOptions : ContrastiveOptions {
  CropOptions() {
    learning_rate = 1e-3;
    weight_decay = 0.01;
  }
  int64_t batch_documents = 64;  // B; fewer where there are fewer
  // A crop's tokens, drawn anew each time: crop_least to crop_share of the
  // document's, and at most crop_most ([CLS] and [SEP] are not counted).
  int64_t crop_least = 4;
  int64_t crop_most = 64;
  double crop_share = 0.5;
  int32_t begin = -1, end = -1;  // ids of [CLS] and [SEP]
};

// What can be told without documents and their tokenizer. InvalidArgument
// lists everything that is wrong.
absl::Status CheckCropOptions(const CropOptions& options,
                              int64_t max_positions);

struct CropBatch {
  std::vector<std::vector<int32_t>> queries, documents;  // B each
};
// documents: ids without special tokens, crop_least each at least. Documents
// come in an order that is new each time round. A function of seed and step.
CropBatch CropBatchAt(const std::vector<std::vector<int32_t>>& documents,
                      const CropOptions& options, int64_t step);

class CropStepper {
 public:
  // The encoder, whose weights the parameters' values are, must outlive it.
  CropStepper(const model::Encoder& encoder, std::vector<Parameter> parameters,
              const CropOptions& options,
              const math::Kernels& kernels = math::Cpu());

  // Forward and backward; the gradients then lie in optimizer().items().
  StepResult Gradients(const CropBatch& batch);
  // The loss alone.
  double Loss(const CropBatch& batch);
  // AdamW by the gradients that are there; sets `applied`.
  void Apply(StepResult& result, double learning_rate);

  Optimizer& optimizer() { return optimizer_; }
  int64_t peak_bytes() const {  // of activations and their gradients
    return results_.peak_bytes() + gradients_.peak_bytes();
  }

 private:
  double Forward(const CropBatch& batch, math::Recorder* recorder);

  const model::Encoder& encoder_;
  const double temperature_, clip_norm_, weight_decay_;
  const math::Product product_;
  const math::Kernels& kernels_;
  math::Arena results_, gradients_;
  Tape tape_;
  Optimizer optimizer_;
};

// From nothing, or a checkpoint, to a trained encoder; `encoder` is as
// InitialEncoder made it. The same bits for the same data and options, on any
// number of threads, however often it was interrupted. InvalidArgument lists
// everything that is wrong with documents and options; Cancelled when progress
// said so, after a checkpoint.
absl::StatusOr<TrainResult> TrainEncoder(
    OwnedEncoder& encoder, const std::vector<std::vector<int32_t>>& documents,
    const CropOptions& options, const OnProgress& progress);

}  // namespace motet::learn
