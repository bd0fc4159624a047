// SPDX-License-Identifier: Apache-2.0
// Formulas: reference/norm.cc. The weights' gradients are summed in pieces of
// 32 rows, the pieces in ascending order, whatever the thread count is.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/kernels.h"

namespace motet::math::cpu {
namespace {

constexpr int64_t kRows = 32;

// body(begin, end, sum) for pieces of kRows rows, each with a sum of its own
// [cols] that starts at 0; then the sums, in order, onto dw. Without dw the
// sum is null.
template <typename Body>
void SumOverRows(int64_t rows, int64_t cols, float* dw, const Body& body) {
  const int64_t pieces = (rows + kRows - 1) / kRows;
  thread_local Scratch scratch;
  float* sums = dw == nullptr ? nullptr : scratch.Get(pieces * cols);
  ForPieces(rows, kRows, [&](int64_t b, int64_t e) {
    float* sum = nullptr;
    if (sums != nullptr) {
      sum = sums + b / kRows * cols;
      std::memset(sum, 0, cols * sizeof(float));
    }
    body(b, e, sum);
  });
  for (int64_t p = 0; p < pieces && sums != nullptr; ++p) {
    Active().add(dw, sums + p * cols, cols, dw);
  }
}

float Length(const float* x, int64_t n) {
  return std::max(std::sqrt(Active().dot(x, x, n)), 1e-12f);
}

}  // namespace

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
  const int64_t cols = x.cols();
  SumOverRows(x.rows(), cols, dw.f32(), [&](int64_t b, int64_t e, float* sum) {
    Active().rms_norm_backward(
        x.f32() + b * cols, w.f32(), inverse_rms.f32() + b,
        dy.f32() + b * cols, e - b, cols,
        dx.empty() ? nullptr : dx.f32() + b * cols, !dx.fresh, sum);
  });
}

void LayerNorm(const Tensor& x, const Tensor& bias, const Tensor& a,
               const Tensor& w, const Tensor& b, float eps, Tensor y,
               Tensor moments) {
  const int64_t cols = x.cols();
  ForPieces(x.rows(), RowsPerPiece(cols), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const float* in = x.f32() + m * cols;
      float* out = y.f32() + m * cols;  // holds the sums on their way
      if (!bias.empty()) {
        Active().add(in, bias.f32(), cols, out);
        in = out;
      }
      if (!a.empty()) {
        Active().add(a.f32() + m * cols, in, cols, out);
        in = out;
      }
      Active().layer_norm(in, w.f32(), b.f32(), eps, 1, cols, out,
                          moments.empty() ? nullptr : moments.f32() + 2 * m);
    }
  });
}

void LayerNormBackward(const Tensor& x, const Tensor& w, const Tensor& moments,
                       const Tensor& dy, Tensor dx, Tensor dw, Tensor db) {
  const int64_t cols = x.cols();
  SumOverRows(x.rows(), cols, dw.f32(), [&](int64_t b, int64_t e, float* sum) {
    Active().layer_norm_backward(
        x.f32() + b * cols, w.f32(), moments.f32() + 2 * b,
        dy.f32() + b * cols, e - b, cols,
        dx.empty() ? nullptr : dx.f32() + b * cols, !dx.fresh, sum);
  });
  AddBiasBackward(dy, db);
}

void Normalise(const Tensor& x, Tensor y) {
  const int64_t cols = x.cols();
  ForPieces(x.rows(), RowsPerPiece(cols), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const float* row = x.f32() + m * cols;
      const float length = Length(row, cols);
      Active().scale(1.0f / length, row, cols, y.f32() + m * cols);
    }
  });
}

void NormaliseBackward(const Tensor& x, const Tensor& dy, Tensor dx) {
  if (dx.empty()) return;
  const int64_t cols = x.cols();
  ForPieces(x.rows(), RowsPerPiece(cols), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const float* row = x.f32() + m * cols;
      const float* d = dy.f32() + m * cols;
      const float share = 1.0f / Length(row, cols);
      const float inner = Active().dot(row, d, cols) * share;
      Active().axpy(share, d, cols, dx.f32() + m * cols);
      Active().axpy(-inner * share * share, row, cols, dx.f32() + m * cols);
    }
  });
}

}  // namespace motet::math::cpu
