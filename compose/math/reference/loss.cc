// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <vector>

#include "compose/math/kernels.h"

namespace motet::math::reference {
namespace {

double LogSumExp(const float* x, int64_t n) {
  double top = -INFINITY, total = 0;
  for (int64_t i = 0; i < n; ++i) top = std::max(top, double{x[i]});
  for (int64_t i = 0; i < n; ++i) total += std::exp(x[i] - top);
  return top + std::log(total);
}

}  // namespace

// Next-token loss with the language-model z-loss; no probabilities kept.
//   lse = log sum_v exp x[m,v]    nll = lse - x[m,target]
//   loss = mean nll + z mean lse^2    over rows with target >= 0  [METHODS 1]
// logits: [M,V] in.   targets: [M], negative = no target.
// nll, lse: [M] out, 0 in rows without target (nll); may be empty.
// parts: {mean nll, mean lse^2} out; may be null.
double CrossEntropy(const Tensor& logits, std::span<const int32_t> targets,
                    double z_weight, Tensor nll, Tensor lse, double* parts) {
  const int64_t vocabulary = logits.cols();
  double sum = 0, squares = 0;
  int64_t count = 0;
  for (int64_t m = 0; m < logits.rows(); ++m) {
    const float* row = logits.f32() + m * vocabulary;
    if (!nll.empty()) nll.f32()[m] = 0;
    if (targets[m] < 0) continue;
    const double log_sum = LogSumExp(row, vocabulary);
    const double loss = log_sum - row[targets[m]];
    if (!nll.empty()) nll.f32()[m] = static_cast<float>(loss);
    if (!lse.empty()) lse.f32()[m] = static_cast<float>(log_sum);
    sum += loss;
    squares += log_sum * log_sum;
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

//   n = rows with a target, p = exp(x - lse)
//   dx += scale / n (p (1 + 2 z lse) - onehot(target))
void CrossEntropyBackward(const Tensor& logits,
                          std::span<const int32_t> targets, double z_weight,
                          const Tensor& lse, double scale, Tensor dlogits) {
  if (dlogits.empty()) return;
  const int64_t vocabulary = logits.cols();
  const int64_t count = std::count_if(targets.begin(), targets.end(),
                                      [](int32_t t) { return t >= 0; });
  for (int64_t m = 0; m < logits.rows(); ++m) {
    if (targets[m] < 0) continue;
    const float* row = logits.f32() + m * vocabulary;
    float* out = dlogits.f32() + m * vocabulary;
    const double log_sum = lse.f32()[m];
    const double factor = scale / count * (1 + 2 * z_weight * log_sum);
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double d = factor * std::exp(row[v] - log_sum) -
                       (v == targets[m] ? scale / count : 0);
      out[v] += static_cast<float>(d);
    }
  }
}

// The same loss of logits = h W^T, a row at a time.
//   x = W h[m]        loss = (sum nll + z sum lse^2) / count
//   g = scale / count (p (1 + 2 z lse) - onehot(target))     p = exp(x - lse)
//   dh[m] += g W      dW += g h[m]^T
// h: [M,C], w: [V,C] f32, bf16 or f16 in.   logits: [R,V], scratch, not used here.
double HeadLoss(const Tensor& h, const Tensor& w,
                std::span<const int32_t> targets, int64_t count,
                double z_weight, double scale, Product, Tensor, Tensor dh,
                Tensor dw, double* parts) {
  ClearFresh({dh, dw});
  const int64_t cols = h.cols(), vocabulary = w.rows();
  std::vector<double> x(vocabulary), sum_h(cols);
  const auto weight = [&](int64_t v, int64_t c) {
    const int64_t i = v * cols + c;
    return w.dtype == DType::kBF16  ? WidenBf16(w.bf16()[i])
           : w.dtype == DType::kF16 ? WidenF16(w.bf16()[i])
                                    : w.f32()[i];
  };
  double sum = 0, squares = 0;
  for (int64_t m = 0; m < h.rows(); ++m) {
    if (targets[m] < 0) continue;
    const float* row = h.f32() + m * cols;
    double top = -INFINITY, total = 0;
    for (int64_t v = 0; v < vocabulary; ++v) {
      x[v] = 0;
      for (int64_t c = 0; c < cols; ++c) x[v] += double{row[c]} * weight(v, c);
      top = std::max(top, x[v]);
    }
    for (int64_t v = 0; v < vocabulary; ++v) total += std::exp(x[v] - top);
    const double lse = top + std::log(total);
    sum += lse - x[targets[m]];
    squares += lse * lse;
    if (dh.empty() && dw.empty()) continue;
    std::fill(sum_h.begin(), sum_h.end(), 0);
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double g =
          scale / count * (std::exp(x[v] - lse) * (1 + 2 * z_weight * lse) -
                           (v == targets[m] ? 1 : 0));
      for (int64_t c = 0; c < cols; ++c) {
        sum_h[c] += g * weight(v, c);
        if (!dw.empty()) {
          dw.f32()[v * cols + c] += static_cast<float>(g * row[c]);
        }
      }
    }
    for (int64_t c = 0; c < cols && !dh.empty(); ++c) {
      dh.f32()[m * cols + c] += static_cast<float>(sum_h[c]);
    }
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

// The router's z-loss, before its weight.
//   mean_m (log sum_e exp x[m,e])^2       [METHODS 1; arXiv 2202.08906]
// x: [M,E] in, router logits with the bias.
double RouterZ(const Tensor& x) {
  double sum = 0;
  for (int64_t m = 0; m < x.rows(); ++m) {
    const double lse = LogSumExp(x.f32() + m * x.cols(), x.cols());
    sum += lse * lse;
  }
  return x.rows() == 0 ? 0 : sum / x.rows();
}

//   dx[m,e] += scale / M 2 lse exp(x - lse)
void RouterZBackward(const Tensor& x, double scale, Tensor dx) {
  if (dx.empty()) return;
  const int64_t experts = x.cols();
  for (int64_t m = 0; m < x.rows(); ++m) {
    const float* row = x.f32() + m * experts;
    const double lse = LogSumExp(row, experts);
    for (int64_t e = 0; e < experts; ++e) {
      dx.f32()[m * experts + e] += static_cast<float>(
          scale / x.rows() * 2 * lse * std::exp(row[e] - lse));
    }
  }
}

}  // namespace motet::math::reference
