// SPDX-License-Identifier: Apache-2.0
// How much memory a training step takes, said before it runs: the decoder
// goes forward and backward over operators that compute nothing
// (math::Counting), so the statement follows the model's own definition.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compose/learn/optimizer.h"
#include "compose/learn/step.h"
#include "compose/model/decoder.h"

namespace motet::learn {

struct StepMemory {
  int64_t weights = 0;      // of the model, as they are stored
  int64_t trained = 0;      // gradients and both moments of what is trained
  int64_t activations = 0;  // results kept for the backward pass, their
                            // gradients, a piece of the logits, the largest
                            // narrow matrix as the library takes it (f32)
  int64_t total() const { return weights + trained + activations; }
  std::string ToString() const;  // "weights 269 MiB, ..."
};

// Of a step over `sequences` of `tokens` each. Where rows choose among
// experts by top-k the experts' shares are taken as equal; their sum is
// right. Beside it a process needs its code and what the products pack, some
// tens of MiB.
StepMemory PlanStep(const model::Decoder& decoder,
                    const std::vector<Parameter>& parameters,
                    const StepOptions& options, int64_t sequences,
                    int64_t tokens);

// The least number of layers to recompute so that a step's total stays
// within `bytes`; all of them when not even that is enough.
int64_t LayersToRecompute(const model::Decoder& decoder,
                          const std::vector<Parameter>& parameters,
                          StepOptions options, int64_t sequences,
                          int64_t tokens, int64_t bytes);

}  // namespace motet::learn
