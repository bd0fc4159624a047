// SPDX-License-Identifier: Apache-2.0
// Formulas: reference/loss.cc. Rows over threads, then one sum in double in
// ascending order of rows. No probabilities are stored.
#include <algorithm>
#include <cmath>
#include <vector>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/kernels.h"

namespace motet::math::cpu {

double CrossEntropy(const Tensor& logits, std::span<const int32_t> targets,
                    double z_weight, Tensor nll, Tensor lse, double* parts) {
  const int64_t rows = logits.rows(), vocabulary = logits.cols();
  std::vector<double> losses(rows), log_sums(rows);
  ForPieces(rows, RowsPerPiece(vocabulary), [&](int64_t b, int64_t e) {
    for (int64_t m = b; m < e; ++m) {
      if (targets[m] < 0) continue;
      const float* row = logits.f32() + m * vocabulary;
      float top, total;
      Active().softmax_total(row, vocabulary, &top, &total);
      log_sums[m] = double{top} + std::log(double{total});
      losses[m] = log_sums[m] - row[targets[m]];
    }
  });
  double sum = 0, squares = 0;
  int64_t count = 0;
  for (int64_t m = 0; m < rows; ++m) {
    if (!nll.empty()) nll.f32()[m] = static_cast<float>(losses[m]);
    if (targets[m] < 0) continue;
    if (!lse.empty()) lse.f32()[m] = static_cast<float>(log_sums[m]);
    sum += losses[m];
    squares += log_sums[m] * log_sums[m];
    ++count;
  }
  if (count > 0) {
    sum /= count;
    squares /= count;
  }
  if (parts != nullptr) {
    parts[0] = sum;
    parts[1] = squares;
  }
  return sum + z_weight * squares;
}

void CrossEntropyBackward(const Tensor& logits,
                          std::span<const int32_t> targets, double z_weight,
                          const Tensor& lse, double scale, Tensor dlogits) {
  if (dlogits.empty()) return;
  const int64_t vocabulary = logits.cols();
  const int64_t count = std::count_if(targets.begin(), targets.end(),
                                      [](int32_t t) { return t >= 0; });
  float* const out = dlogits.f32();
  ForPieces(logits.rows(), RowsPerPiece(vocabulary),
            [&](int64_t b, int64_t e) {
    for (int64_t m = b; m < e; ++m) {
      if (targets[m] < 0) continue;
      const float log_sum = lse.f32()[m];
      const double share = scale / static_cast<double>(count);
      Active().add_scaled_exp(
          logits.f32() + m * vocabulary, vocabulary, log_sum,
          static_cast<float>(share * (1 + 2 * z_weight * log_sum)),
          out + m * vocabulary);
      out[m * vocabulary + targets[m]] -= static_cast<float>(share);
    }
  });
}

double RouterZ(const Tensor& x) { return reference::RouterZ(x); }

void RouterZBackward(const Tensor& x, double scale, Tensor dx) {
  reference::RouterZBackward(x, scale, dx);
}

}  // namespace motet::math::cpu
