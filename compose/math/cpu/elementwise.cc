// SPDX-License-Identifier: Apache-2.0
// Formulas: reference/elementwise.cc. Here: rows and columns over threads.
#include <algorithm>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/kernels.h"

namespace motet::math::cpu {
namespace {

constexpr int64_t kPiece = 16384;       // numbers of an elementwise piece
constexpr int64_t kColumnPiece = 64;    // columns of a scattering piece

// to[rows[i]] += from[i]. Rows may repeat, so threads take columns.
void ScatterAdd(std::span<const int32_t> rows, const Tensor& from,
                Tensor to) {
  const int64_t cols = to.cols();
  const int64_t piece = from.size() < kPiece ? cols : kColumnPiece;
  ForPieces(cols, std::max<int64_t>(piece, 1), [&](int64_t b, int64_t e) {
    for (size_t i = 0; i < rows.size(); ++i) {
      const float* in = from.f32() + i * cols;
      float* out = to.f32() + rows[i] * cols;
      Active().add(out + b, in + b, e - b, out + b);
    }
  });
}

}  // namespace

void Embed(std::span<const int32_t> ids, const Tensor& table, Tensor y) {
  const int64_t cols = table.cols();
  ForPieces(ids.size(), RowsPerPiece(cols), [&](int64_t b, int64_t e) {
    for (int64_t m = b; m < e; ++m) {
      const int64_t from = ids[m] * cols;
      if (table.dtype == DType::kBF16) {
        Active().widen(table.bf16() + from, cols, y.f32() + m * cols);
      } else {
        std::copy_n(table.f32() + from, cols, y.f32() + m * cols);
      }
    }
  });
}

void EmbedBackward(std::span<const int32_t> ids, const Tensor& dy,
                   Tensor dtable) {
  if (!dtable.empty()) ScatterAdd(ids, dy, dtable);
}

void Add(const Tensor& a, const Tensor& b, Tensor y) {
  ForPieces(a.size(), kPiece, [&](int64_t begin, int64_t end) {
    Active().add(a.f32() + begin, b.f32() + begin, end - begin,
                 y.f32() + begin);
  });
}

void SwiGlu(const Tensor& gate, const Tensor& up, Tensor y) {
  ForPieces(gate.size(), kPiece, [&](int64_t b, int64_t e) {
    Active().swiglu(gate.f32() + b, up.f32() + b, e - b, y.f32() + b);
  });
}

void SwiGluBackward(const Tensor& gate, const Tensor& up, const Tensor& dy,
                    Tensor dgate, Tensor dup) {
  ForPieces(gate.size(), kPiece, [&](int64_t b, int64_t e) {
    Active().swiglu_backward(gate.f32() + b, up.f32() + b, dy.f32() + b,
                             e - b, dgate.empty() ? nullptr : dgate.f32() + b,
                             dup.empty() ? nullptr : dup.f32() + b);
  });
}

// A handful of numbers a row: the plain form is the fast one.
void OwnerBias(const Tensor& x, const Tensor& b, Tensor y) {
  reference::OwnerBias(x, b, y);
}

void OwnerBiasBackward(const Tensor& b, const Tensor& dy, Tensor dx,
                       Tensor db) {
  reference::OwnerBiasBackward(b, dy, dx, db);
}

void Gather(const Tensor& x, std::span<const int32_t> rows, Tensor y) {
  const int64_t cols = x.cols();
  ForPieces(rows.size(), RowsPerPiece(cols), [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      std::copy_n(x.f32() + rows[i] * cols, cols, y.f32() + i * cols);
    }
  });
}

void GatherBackward(std::span<const int32_t> rows, const Tensor& dy,
                    Tensor dx) {
  if (!dx.empty()) ScatterAdd(rows, dy, dx);
}

}  // namespace motet::math::cpu
