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

namespace {

// x[i] = factor exp(x[i] - lse), where it lies.
void ScaledExp(float* x, int64_t n, float lse, float factor) {
  constexpr int64_t kPiece = 1024;
  alignas(64) float piece[kPiece];
  for (int64_t i = 0; i < n; i += kPiece) {
    const int64_t size = std::min(kPiece, n - i);
    std::fill_n(piece, size, 0.0f);
    Active().add_scaled_exp(x + i, size, lse, factor, piece);
    std::copy_n(piece, size, x + i);
  }
}

}  // namespace

// Pieces of as many rows as `logits` has room for: product, loss, and where
// gradients are wanted the logits become their own gradient in place and are
// multiplied back. Sums over rows run in double in ascending order.
double HeadLoss(const Tensor& h, const Tensor& w,
                std::span<const int32_t> targets, int64_t count,
                double z_weight, double scale, Product product, Tensor logits,
                Tensor dh, Tensor dw, double* parts) {
  const int64_t rows = h.rows(), vocabulary = w.rows();
  const bool gradients = (!dh.empty() || !dw.empty()) && count > 0;
  const double share = count > 0 ? scale / static_cast<double>(count) : 0;
  const auto slice = [](const Tensor& t, int64_t row, int64_t n) {
    return t.empty() ? t : t.RowSlice(row, n);
  };
  std::vector<double> losses(rows), log_sums(rows);
  MOTET_CHECK(rows == 0 || logits.rows() > 0);
  for (int64_t first = 0; first < rows; first += logits.rows()) {
    const int64_t n = std::min(logits.rows(), rows - first);
    Tensor x = logits.RowSlice(0, n);
    const Tensor piece = h.RowSlice(first, n);
    Linear(piece, w, x, product);
    ForPieces(n, RowsPerPiece(vocabulary), [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) {
        const int64_t m = first + i;
        float* row = x.f32() + i * vocabulary;
        if (targets[m] < 0) {
          if (gradients) std::fill_n(row, vocabulary, 0.0f);
          continue;
        }
        float top, total;
        Active().softmax_total(row, vocabulary, &top, &total);
        const double lse = double{top} + std::log(double{total});
        log_sums[m] = lse;
        losses[m] = lse - row[targets[m]];
        if (!gradients) continue;
        ScaledExp(row, vocabulary, static_cast<float>(lse),
                  static_cast<float>(share * (1 + 2 * z_weight * lse)));
        row[targets[m]] -= static_cast<float>(share);
      }
    });
    if (gradients) {
      LinearBackward(piece, w, x, slice(dh, first, n), dw, product);
      dw.fresh = false;
    }
  }
  double sum = 0, squares = 0;
  for (int64_t m = 0; m < rows; ++m) {
    sum += losses[m];
    squares += log_sums[m] * log_sums[m];
  }
  if (count > 0) {
    sum /= static_cast<double>(count);
    squares /= static_cast<double>(count);
  }
  if (parts != nullptr) {
    parts[0] = sum;
    parts[1] = squares;
  }
  return sum + z_weight * squares;
}

double RouterZ(const Tensor& x) { return reference::RouterZ(x); }

void RouterZBackward(const Tensor& x, double scale, Tensor dx) {
  reference::RouterZBackward(x, scale, dx);
}

}  // namespace motet::math::cpu
