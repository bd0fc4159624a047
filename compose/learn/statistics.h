// SPDX-License-Identifier: Apache-2.0
// METHODS 11: what anchored routing needs of public text (the anchor) and of
// an owner. Sums run in double, in window order, so they are reproducible.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "compose/learn/corpus.h"
#include "compose/model/decoder.h"

namespace motet::learn {

// Per layer, the mean [C] of a decoder's router inputs (the FFN's input when
// it is dense) over the first windows, at most max_tokens tokens of them but
// one window at least.
absl::StatusOr<std::vector<std::vector<double>>> MeanRouterInputs(
    const model::Decoder& decoder, const TokenWindows& windows,
    int64_t max_tokens);

// How many tokens that limit comes to: whole windows, one at least.
int64_t StatisticsTokens(const TokenWindows& windows, int64_t max_tokens);

struct AnchorLayer {
  std::vector<float> mean;        // mu_0 [C]
  std::vector<float> covariance;  // Sigma_0 [C,C]
  std::vector<float> precision;   // (Sigma_0 + lambda I)^-1 [C,C]
};
// Of the base's router inputs over up to max_tokens tokens. The covariance
// divides by the number of tokens; the precision is computed in double.
// lambda = ridge * mean of the diagonal.
absl::StatusOr<std::vector<AnchorLayer>> ComputeAnchor(
    const model::Decoder& base, const TokenWindows& windows,
    int64_t max_tokens, double ridge = 1e-2);

// Sums over router inputs x of one layer, for rows solved in closed form.
struct SecondMoments {
  std::vector<double> products;  // lower triangle of sum x x^T, row by row
  std::vector<double> sum;       // sum x [C]
};
// Of a decoder's router inputs over up to max_tokens tokens, per layer.
absl::StatusOr<std::vector<SecondMoments>> ComputeSecondMoments(
    const model::Decoder& decoder, const TokenWindows& windows,
    int64_t max_tokens);

// The gate's metric of rank R, G^T G for P: what P weighs of the directions
// in which public text varies most.
//   row i of G: sqrt(u_i^T P u_i) u_i, u_i the i-th eigenvector of Sigma_0
// covariance, precision: [C,C] f32.   rank: 1 to C.   G: [R,C].
// Rows of a lower rank are the first of a higher one up to rounding.
std::vector<float> GateFactor(const float* covariance, const float* precision,
                              int64_t width, int64_t rank);

struct OwnerLayer {
  std::vector<float> base_mean;  // mu_e [C]
  std::vector<float> pair_mean;  // m_e [C]
  float threshold = 0;           // tau_e
  std::vector<float> further;    // tau_e of the further gates, in their order
};
struct OwnerGate {
  double smoothing = 0;      // a
  bool prefix_mean = false;  // a = n / (n + 1) after n rows of a window
  double quantile = 0.97;
  int64_t rank = 0;          // of the metric: GateFactor; 0 = all of P
};
struct OwnerStatisticsOptions {
  int64_t max_tokens = 32768;
  double smoothing = 0.8;
  double quantile = 0.97;
  int64_t skip_positions = 8;
  std::vector<OwnerGate> further;
  // On both means: noise standard deviations of public text in every
  // direction, n ~ N(0, noise^2 P^-1), made of these draws of N(0, 1): C for
  // mu_e and C for m_e, layer by layer. Thresholds are taken around the m_e
  // that carries its noise.
  double noise = 0;
  std::vector<double> normal;
};
// mu_e by the base's own run, m_e and tau_e by the pair's, both over `own`.
//   H(first of a window) = h,  H(t) = a H(t-1) + (1-a) h(t)
//   d(t) = (H(t) - m_e)^T P (H(t) - m_e)
//   tau_e = the q-quantile of d, the first skip_positions of every window
//           left out (linear between neighbours)            [METHODS 11]
absl::StatusOr<std::vector<OwnerLayer>> ComputeOwnerStatistics(
    const model::Decoder& base, const model::Decoder& pair,
    const std::vector<AnchorLayer>& anchor, const TokenWindows& own,
    const OwnerStatisticsOptions& options);

}  // namespace motet::learn
