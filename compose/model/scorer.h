// SPDX-License-Identifier: Apache-2.0
// What answers a query, whatever it is made of: tokens in, logits of the next
// token out. A decoder under one expert set is one; an ensemble is another
// (compose/assemble). Serving and measuring run scorers and never ask which.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "compose/math/exec.h"
#include "compose/model/decoder.h"

namespace motet::model {

// What one sequence carries from token to token. It belongs to the scorer
// that made it.
class ScorerState {
 public:
  virtual ~ScorerState() = default;
};

// One sequence's next tokens; without a state they are the whole sequence.
struct ScorerInput {
  std::span<const int32_t> ids;  // each in [0, V), one or more
  ScorerState* state = nullptr;  // moved on
};
// Rows of the inputs after one another.
struct RowRange {
  int64_t first = 0, count = 0;
};
// Logits [n,V] of rows [row, row + n), in the Exec's arena and only for this
// call. false: no more rows are wanted.
using LogitsSink = std::function<bool(int64_t row, const math::Tensor& logits)>;

class Scorer {
 public:
  virtual ~Scorer() = default;
  // Vocabulary and context.
  virtual const ModelConfig& config() const = 0;
  // capacity: tokens, at most.
  virtual std::unique_ptr<ScorerState> NewState(int64_t capacity) const = 0;
  // Of memory that such a state may take.
  virtual int64_t StateBytes(int64_t capacity) const = 0;
  // Runs the inputs. The sink gets the logits of the rows wanted, a few at a
  // time; ranges ascend, and one may go over several inputs. With
  // exact products a row's bits depend on its sequence alone, not on what else
  // is run with it nor on the pieces that a sequence comes in. After a sink
  // that said false the states are of no further use. The arena is as before.
  virtual void Run(math::Exec& exec, std::span<const ScorerInput> inputs,
                   std::span<const RowRange> wanted,
                   const LogitsSink& sink) const = 0;
};

// Logits rows that are held at once.
int64_t LogitRows(const ModelConfig& config);

// A decoder under one expert set. active: SequenceInput::active.
class DecoderScorer : public Scorer {
 public:
  DecoderScorer(std::shared_ptr<const Decoder> decoder,
                math::ExpertMask allowed, int32_t active = 0)
      : decoder_(std::move(decoder)), allowed_(allowed), active_(active) {}
  // The caller's decoder, which outlives this.
  DecoderScorer(const Decoder& decoder, math::ExpertMask allowed)
      : DecoderScorer(std::shared_ptr<const Decoder>(
                          std::shared_ptr<const Decoder>(), &decoder),
                      allowed) {}

  const ModelConfig& config() const override { return decoder_->config(); }
  std::unique_ptr<ScorerState> NewState(int64_t capacity) const override;
  int64_t StateBytes(int64_t capacity) const override;
  void Run(math::Exec& exec, std::span<const ScorerInput> inputs,
           std::span<const RowRange> wanted,
           const LogitsSink& sink) const override;

  // For scorers that are made of several: hidden states [M,C] of the inputs
  // in the arena, and their logits.
  math::Tensor Forward(math::Exec& exec, std::span<const ScorerInput> inputs,
                       Trace* trace = nullptr) const;
  math::Tensor Logits(math::Exec& exec, const math::Tensor& hidden) const {
    return decoder_->Logits(exec, hidden);
  }

 private:
  std::shared_ptr<const Decoder> decoder_;
  math::ExpertMask allowed_;
  int32_t active_;
};

}  // namespace motet::model
