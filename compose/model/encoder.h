// SPDX-License-Identifier: Apache-2.0
// The BERT encoder, defined once: training, indexing and serving run these
// steps. Ids enter, one vector a sequence leaves. Sequences are packed, rows
// after one another without padding. A LoRA adapter is chosen for each call
// and never merged, so one base serves any number of adapters.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compose/math/exec.h"
#include "compose/model/encoder_config.h"
#include "compose/model/encoder_weights.h"

namespace motet::model {

// One sequence with its special tokens ([CLS] and [SEP]) in place.
struct EncoderInput {
  std::span<const int32_t> ids;    // each in [0, V); 1 to max_positions
  std::span<const int32_t> types;  // as many, each in [0, token_types);
                                   // empty: all 0
};

// Rows of all sequences after one another, with what the operators need of
// them. Must outlive a backward pass over it; the inputs need not.
class EncoderBatch {
 public:
  explicit EncoderBatch(std::span<const EncoderInput> sequences);
  int64_t rows() const { return static_cast<int64_t>(ids_.size()); }
  int64_t sequences() const { return static_cast<int64_t>(segments_.size()); }
  std::span<const int32_t> ids() const { return ids_; }
  std::span<const int32_t> types() const { return types_; }
  std::span<const int32_t> positions() const { return positions_; }
  std::span<const math::Segment> segments() const { return segments_; }

 private:
  std::vector<int32_t> ids_, types_, positions_;
  std::vector<math::Segment> segments_;
};

class Encoder {
 public:
  // Weights must fit the config (InvalidArgument lists every tensor that
  // does not) and outlive the encoder. normalise: vectors leave with length 1.
  static absl::StatusOr<Encoder> Create(const EncoderConfig& config,
                                        EncoderWeights weights, bool normalise);

  // InvalidArgument for a sequence that the batch must not hold: empty, too
  // long, an id or a type out of range.
  absl::Status CheckInput(const EncoderInput& input) const;

  // Hidden states of all rows, [M,C], in the Exec's arena. lora (null: the
  // base alone) has passed CheckLora and must outlive a backward pass. With
  // no recorder a layer's memory is given back before the next layer begins.
  // noise: in training, the seed of the adapter's dropout, each map's its own;
  // none: nothing is dropped.
  math::Tensor Forward(math::Exec& exec, const EncoderBatch& batch,
                       const Lora* lora = nullptr,
                       std::optional<uint64_t> noise = {}) const;
  // One vector a sequence, [S,C]: the mean of its hidden states, normalised
  // if that is the encoder's way.
  math::Tensor Pool(math::Exec& exec, const EncoderBatch& batch,
                    const math::Tensor& hidden) const;

  // Vectors of any number of sequences, [S,C] to `out`: packed into batches
  // of a size that suits the caches, and one pass for each. A sequence's
  // vector does not depend on the others with Product::kExact.
  absl::Status Encode(const math::Kernels& kernels, math::Product product,
                      std::span<const EncoderInput> sequences, const Lora* lora,
                      float* out) const;

  const EncoderConfig& config() const { return config_; }
  const EncoderWeights& weights() const { return weights_; }
  bool normalise() const { return normalise_; }

 private:
  Encoder(EncoderConfig config, EncoderWeights weights, bool normalise);
  math::Tensor Layer(math::Exec& exec, const EncoderBatch& batch, int64_t layer,
                     const Lora* lora, std::optional<uint64_t> noise,
                     const math::Tensor& x) const;

  EncoderConfig config_;
  EncoderWeights weights_;
  bool normalise_;
};

}  // namespace motet::model
