// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "compose/math/kernels.h"

namespace motet::math::reference {
namespace {

// Rotates every head of a row by sign * its angles; out = (or +=) the result.
void Rotate(const float* x, int64_t cols, int32_t position,
            std::span<const double> frequencies, double sign, bool accumulate,
            float* out) {
  const int64_t half = static_cast<int64_t>(frequencies.size());
  const int64_t head_dim = 2 * half;
  for (int64_t i = 0; i < half; ++i) {
    const double angle = position * frequencies[i];
    const float cosine = static_cast<float>(std::cos(angle));
    const float sine = static_cast<float>(sign * std::sin(angle));
    for (int64_t h = 0; h < cols; h += head_dim) {
      const double a = x[h + i], b = x[h + i + half];
      const float low = static_cast<float>(a * cosine - b * sine);
      const float high = static_cast<float>(b * cosine + a * sine);
      out[h + i] = accumulate ? out[h + i] + low : low;
      out[h + i + half] = accumulate ? out[h + i + half] + high : high;
    }
  }
}

}  // namespace

// Rotary position embedding, halves of each head as pairs (NeoX).
//   phi = position f_i                                   [arXiv 2104.09864]
//   y[i] = x[i] cos phi - x[i+D/2] sin phi
//   y[i+D/2] = x[i+D/2] cos phi + x[i] sin phi
// x: [M,H*D] in.   positions: [M].   frequencies f: [D/2], theta^(-2i/D) where
// the model does not scale them.   y: [M,H*D] out, may alias x.
// cos and sin are computed in double and rounded to f32.
void Rope(const Tensor& x, std::span<const int32_t> positions,
          std::span<const double> frequencies, Tensor y) {
  const int64_t cols = x.cols();
  for (int64_t m = 0; m < x.rows(); ++m) {
    Rotate(x.f32() + m * cols, cols, positions[m], frequencies, 1, false,
           y.f32() + m * cols);
  }
}

// The rotation's inverse: dx += R(-phi) dy.
void RopeBackward(const Tensor& dy, std::span<const int32_t> positions,
                  std::span<const double> frequencies, Tensor dx) {
  ClearFresh({dx});
  if (dx.empty()) return;
  const int64_t cols = dy.cols();
  for (int64_t m = 0; m < dy.rows(); ++m) {
    Rotate(dy.f32() + m * cols, cols, positions[m], frequencies, -1, true,
           dx.f32() + m * cols);
  }
}

}  // namespace motet::math::reference
