// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "compose/math/kernels.h"

namespace motet::math::reference {

// Root-mean-square norm; the weight multiplies last.
//   r = 1 / sqrt(mean_c x^2 + eps)     y = w x r         [arXiv 1910.07467]
// x: [M,C] in.   w: [C] in.   y: [M,C] out, may alias x.
// inverse_rms: [M] out, r of each row; may be empty.
void RmsNorm(const Tensor& x, const Tensor& w, float eps, Tensor y,
             Tensor inverse_rms) {
  const int64_t cols = x.cols();
  for (int64_t m = 0; m < x.rows(); ++m) {
    const float* row = x.f32() + m * cols;
    double sum = 0;
    for (int64_t c = 0; c < cols; ++c) sum += double{row[c]} * row[c];
    const double r = 1 / std::sqrt(sum / cols + eps);
    for (int64_t c = 0; c < cols; ++c) {
      y.f32()[m * cols + c] = static_cast<float>(w.f32()[c] * (row[c] * r));
    }
    if (!inverse_rms.empty()) inverse_rms.f32()[m] = static_cast<float>(r);
  }
}

//   n = x r     dx += r (w dy - n mean_c(w dy n))     dw += sum_m dy n
void RmsNormBackward(const Tensor& x, const Tensor& w,
                     const Tensor& inverse_rms, const Tensor& dy, Tensor dx,
                     Tensor dw) {
  const int64_t rows = x.rows(), cols = x.cols();
  for (int64_t m = 0; m < rows && !dx.empty(); ++m) {
    const float* row = x.f32() + m * cols;
    const float* d = dy.f32() + m * cols;
    const double r = inverse_rms.f32()[m];
    double mean = 0;
    for (int64_t c = 0; c < cols; ++c) {
      mean += double{w.f32()[c]} * d[c] * (row[c] * r);
    }
    mean /= cols;
    for (int64_t c = 0; c < cols; ++c) {
      dx.f32()[m * cols + c] += static_cast<float>(
          r * (double{w.f32()[c]} * d[c] - row[c] * r * mean));
    }
  }
  for (int64_t c = 0; c < cols && !dw.empty(); ++c) {
    double sum = 0;
    for (int64_t m = 0; m < rows; ++m) {
      sum += double{dy.f32()[m * cols + c]} * x.f32()[m * cols + c] *
             inverse_rms.f32()[m];
    }
    dw.f32()[c] += static_cast<float>(sum);
  }
}

}  // namespace motet::math::reference
