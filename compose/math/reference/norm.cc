// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <vector>

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
  ClearFresh({dx});
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

// Layer norm: every row to mean 0 and deviation 1, then scaled and moved.
//   r = 1 / sqrt(mean_c (x - mean_c x)^2 + eps)   y = w (x - mean_c x) r + b
//                                                       [arXiv 1607.06450]
// x: [M,C] in.   w, b: [C] in.   y: [M,C] out, may alias x.
// bias: [C], a: [M,C] in: a + (x + bias) in place of x; may be empty.
// moments: [M,2] out, mean and r of each row; may be empty.
void LayerNorm(const Tensor& x, const Tensor& bias, const Tensor& a,
               const Tensor& w, const Tensor& b, float eps, Tensor y,
               Tensor moments) {
  const int64_t cols = x.cols();
  std::vector<double> row(cols);
  for (int64_t m = 0; m < x.rows(); ++m) {
    for (int64_t c = 0; c < cols; ++c) {
      row[c] = x.f32()[m * cols + c];
      if (!bias.empty()) row[c] += bias.f32()[c];
      if (!a.empty()) row[c] += a.f32()[m * cols + c];
    }
    double mean = 0, square = 0;
    for (int64_t c = 0; c < cols; ++c) mean += row[c];
    mean /= cols;
    for (int64_t c = 0; c < cols; ++c) {
      square += (row[c] - mean) * (row[c] - mean);
    }
    const double r = 1 / std::sqrt(square / cols + eps);
    for (int64_t c = 0; c < cols; ++c) {
      y.f32()[m * cols + c] = static_cast<float>(
          w.f32()[c] * ((row[c] - mean) * r) + b.f32()[c]);
    }
    if (moments.empty()) continue;
    moments.f32()[2 * m] = static_cast<float>(mean);
    moments.f32()[2 * m + 1] = static_cast<float>(r);
  }
}

//   n = (x - mean) r    dx += r (w dy - mean_c(w dy) - n mean_c(w dy n))
//   dw += sum_m dy n    db += sum_m dy
void LayerNormBackward(const Tensor& x, const Tensor& w, const Tensor& moments,
                       const Tensor& dy, Tensor dx, Tensor dw, Tensor db) {
  ClearFresh({dx});
  const int64_t rows = x.rows(), cols = x.cols();
  const auto unit = [&](int64_t m, int64_t c) {
    return (double{x.f32()[m * cols + c]} - moments.f32()[2 * m]) *
           moments.f32()[2 * m + 1];
  };
  for (int64_t m = 0; m < rows && !dx.empty(); ++m) {
    const float* d = dy.f32() + m * cols;
    double mean = 0, along = 0;
    for (int64_t c = 0; c < cols; ++c) {
      mean += double{w.f32()[c]} * d[c] / cols;
      along += double{w.f32()[c]} * d[c] * unit(m, c) / cols;
    }
    for (int64_t c = 0; c < cols; ++c) {
      dx.f32()[m * cols + c] += static_cast<float>(
          moments.f32()[2 * m + 1] *
          (double{w.f32()[c]} * d[c] - mean - unit(m, c) * along));
    }
  }
  for (int64_t c = 0; c < cols; ++c) {
    double sum = 0, weighted = 0;
    for (int64_t m = 0; m < rows; ++m) {
      sum += dy.f32()[m * cols + c];
      weighted += dy.f32()[m * cols + c] * unit(m, c);
    }
    if (!dw.empty()) dw.f32()[c] += static_cast<float>(weighted);
    if (!db.empty()) db.f32()[c] += static_cast<float>(sum);
  }
}

namespace {

// max(|x|, 1e-12), as torch.nn.functional.normalize has it.
double Length(const float* x, int64_t n) {
  double square = 0;
  for (int64_t c = 0; c < n; ++c) square += double{x[c]} * x[c];
  return std::max(std::sqrt(square), 1e-12);
}

}  // namespace

// Every row to length 1.
//   y = x / n, n = max(|x|, 1e-12)
// x: [M,C] in.   y: [M,C] out, may alias x.
void Normalise(const Tensor& x, Tensor y) {
  const int64_t cols = x.cols();
  for (int64_t m = 0; m < x.rows(); ++m) {
    const double length = Length(x.f32() + m * cols, cols);
    for (int64_t c = m * cols; c < (m + 1) * cols; ++c) {
      y.f32()[c] = static_cast<float>(x.f32()[c] / length);
    }
  }
}

//   dx += (dy - x (x.dy) / n^2) / n
void NormaliseBackward(const Tensor& x, const Tensor& dy, Tensor dx) {
  const int64_t cols = x.cols();
  for (int64_t m = 0; m < x.rows() && !dx.empty(); ++m) {
    const float* row = x.f32() + m * cols;
    const float* d = dy.f32() + m * cols;
    const double length = Length(row, cols);
    double inner = 0;
    for (int64_t c = 0; c < cols; ++c) inner += double{row[c]} * d[c];
    inner /= length * length;
    for (int64_t c = 0; c < cols; ++c) {
      dx.f32()[m * cols + c] +=
          static_cast<float>((d[c] - row[c] * inner) / length);
    }
  }
}

}  // namespace motet::math::reference
