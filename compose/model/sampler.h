// SPDX-License-Identifier: Apache-2.0
// From logits to the next token. Deterministic in (logits, options, seed,
// position). A NaN or -inf logit is never chosen.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace motet::model {

// The filters act in the order temperature, top-k, top-p (of what top-k
// left), min-p; each keeps at least the likeliest token.
struct SamplerOptions {
  double temperature = 1.0;  // 0 = greedy: the likeliest, ties to the lowest
  double top_p = 1.0;        // smallest prefix with at least this probability
  int64_t top_k = 0;         // 0 = off
  double min_p = 0.0;        // at least this share of the likeliest's
  uint64_t seed = 0;
};
// position: of the token to draw, so that draws do not depend on history.
// 0 when no logit is finite.
int32_t Sample(std::span<const float> logits, const SamplerOptions& options,
               uint64_t position);
// log softmax at id; and the n likeliest (id, log-probability), descending,
// ties to the lower id.
double LogProbability(std::span<const float> logits, int32_t id);
std::vector<std::pair<int32_t, double>> TopLogProbabilities(
    std::span<const float> logits, int n);

// A number in [0, 1) that depends on seed and position alone: a counter in,
// a hash out, no state between draws.
double UniformAt(uint64_t seed, uint64_t position);

}  // namespace motet::model
