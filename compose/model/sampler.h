// SPDX-License-Identifier: Apache-2.0
// From logits to the next token. Deterministic in (logits, options, seed,
// position).
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace motet::model {

struct SamplerOptions {
  double temperature = 1.0;  // 0 = greedy
  double top_p = 1.0;
  int64_t top_k = 0;         // 0 = off
  double min_p = 0.0;
  uint64_t seed = 0;
};
// position: of the token to draw, so that draws do not depend on history.
int32_t Sample(std::span<const float> logits, const SamplerOptions& options,
               uint64_t position);
// log softmax at id; and the n likeliest (id, log-probability), descending.
double LogProbability(std::span<const float> logits, int32_t id);
std::vector<std::pair<int32_t, double>> TopLogProbabilities(
    std::span<const float> logits, int n);

}  // namespace motet::model
