// SPDX-License-Identifier: Apache-2.0
// Formulas: reference/norm.cc. The weight's gradient is summed in pieces of
// 32 rows, the pieces in ascending order, whatever the thread count is.
#include <algorithm>
#include <cstring>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/kernels.h"

namespace motet::math::cpu {

void RmsNorm(const Tensor& x, const Tensor& w, float eps, Tensor y,
             Tensor inverse_rms) {
  const int64_t cols = x.cols();
  ForPieces(x.rows(), RowsPerPiece(cols), [&](int64_t b, int64_t e) {
    Active().rms_norm(x.f32() + b * cols, w.f32(), eps, e - b, cols,
                      y.f32() + b * cols,
                      inverse_rms.empty() ? nullptr : inverse_rms.f32() + b);
  });
}

void RmsNormBackward(const Tensor& x, const Tensor& w,
                     const Tensor& inverse_rms, const Tensor& dy, Tensor dx,
                     Tensor dw) {
  constexpr int64_t kRows = 32;
  const int64_t rows = x.rows(), cols = x.cols();
  const int64_t pieces = (rows + kRows - 1) / kRows;
  thread_local Scratch scratch;
  float* sums = dw.empty() ? nullptr : scratch.Get(pieces * cols);
  ForPieces(rows, kRows, [&](int64_t b, int64_t e) {
    float* sum = nullptr;
    if (sums != nullptr) {
      sum = sums + b / kRows * cols;
      std::memset(sum, 0, cols * sizeof(float));
    }
    Active().rms_norm_backward(
        x.f32() + b * cols, w.f32(), inverse_rms.f32() + b,
        dy.f32() + b * cols, e - b, cols,
        dx.empty() ? nullptr : dx.f32() + b * cols, sum);
  });
  for (int64_t p = 0; p < pieces && sums != nullptr; ++p) {
    Active().add(dw.f32(), sums + p * cols, cols, dw.f32());
  }
}

}  // namespace motet::math::cpu
