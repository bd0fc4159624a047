// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstddef>

#include "compose/learn/eigen.h"
#include "compose/learn/statistics.h"

namespace motet::learn {

std::vector<float> GateFactor(const float* covariance, const float* precision,
                              int64_t width, int64_t rank) {
  const std::vector<double> directions = LeadingEigenvectors(
      {covariance, covariance + width * width}, width, rank);
  std::vector<float> factor(directions.size());
  for (int64_t i = 0; i < rank; ++i) {
    const double* u = directions.data() + i * width;
    double weight = 0;
    for (int64_t r = 0; r < width; ++r) {
      double row = 0;
      for (int64_t c = 0; c < width; ++c) {
        row += double{precision[r * width + c]} * u[c];
      }
      weight += u[r] * row;
    }
    const double scale = std::sqrt(weight > 0 ? weight : 0);
    for (int64_t c = 0; c < width; ++c) {
      factor[static_cast<size_t>(i * width + c)] =
          static_cast<float>(scale * u[c]);
    }
  }
  return factor;
}

}  // namespace motet::learn
