// SPDX-License-Identifier: Apache-2.0
// METHODS 11: what anchored routing needs of public text (the anchor) and of
// an owner. Sums run in double, in window order, so they are reproducible.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "compose/learn/corpus.h"
#include "compose/model/decoder.h"

namespace motet::learn {

struct AnchorLayer {
  std::vector<float> mean;        // mu_0 [C]
  std::vector<float> covariance;  // Sigma_0 [C,C]
  std::vector<float> precision;   // (Sigma_0 + lambda I)^-1 [C,C]
};
// Of the base's router inputs over up to max_tokens tokens.
// lambda = ridge * mean of the diagonal.
absl::StatusOr<std::vector<AnchorLayer>> ComputeAnchor(
    const model::Decoder& base, const TokenWindows& windows,
    int64_t max_tokens, double ridge = 1e-2);

struct OwnerLayer {
  std::vector<float> base_mean;  // mu_e [C]
  std::vector<float> pair_mean;  // m_e [C]
  float threshold = 0;           // tau_e
};
struct OwnerStatisticsOptions {
  int64_t max_tokens = 65536;
  double smoothing = 0.8;
  double quantile = 0.97;
  int64_t skip_positions = 8;
};
absl::StatusOr<std::vector<OwnerLayer>> ComputeOwnerStatistics(
    const model::Decoder& base, const model::Decoder& pair,
    const std::vector<AnchorLayer>& anchor, const TokenWindows& own,
    const OwnerStatisticsOptions& options);

}  // namespace motet::learn
