// SPDX-License-Identifier: Apache-2.0
// Formulas: reference/elementwise.cc. Here: rows and columns over threads.
#include <algorithm>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/dropout.h"
#include "compose/math/kernels.h"

namespace motet::math::cpu {
namespace {

constexpr int64_t kPiece = 16384;       // numbers of an elementwise piece
constexpr int64_t kColumnPiece = 64;    // columns of a scattering piece

// Columns of a piece that goes down a whole matrix.
int64_t ColumnPiece(const Tensor& t) {
  return std::max<int64_t>(t.size() < kPiece ? t.cols() : kColumnPiece, 1);
}

// to[rows[i]] += from[i]. Rows may repeat, so threads take columns.
void ScatterAdd(std::span<const int32_t> rows, const Tensor& from,
                Tensor to) {
  const int64_t cols = to.cols();
  ForPieces(cols, ColumnPiece(from), [&](int64_t b, int64_t e) {
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
      if (table.dtype != DType::kF32) {
        Active().widen(table.bf16() + from, table.dtype, cols,
                       y.f32() + m * cols);
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

void AddBias(const Tensor& x, const Tensor& b, Tensor y) {
  const int64_t cols = x.cols();
  ForPieces(x.rows(), RowsPerPiece(cols), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      Active().add(x.f32() + m * cols, b.f32(), cols, y.f32() + m * cols);
    }
  });
}

void AddBiasBackward(const Tensor& dy, Tensor db) {
  if (db.empty()) return;
  const int64_t cols = dy.cols();
  ForPieces(cols, ColumnPiece(dy), [&](int64_t b, int64_t e) {
    for (int64_t m = 0; m < dy.rows(); ++m) {
      Active().add(db.f32() + b, dy.f32() + m * cols + b, e - b,
                   db.f32() + b);
    }
  });
}

void AddScaled(const Tensor& a, float s, const Tensor& b, Tensor y) {
  ForPieces(b.size(), kPiece, [&](int64_t begin, int64_t end) {
    Active().add_scaled(a.empty() ? nullptr : a.f32() + begin, s,
                        b.f32() + begin, end - begin, y.f32() + begin);
  });
}

void Dropout(const Tensor& x, double rate, uint64_t seed, Tensor y) {
  MOTET_CHECK(x.size() <= int64_t{UINT32_MAX});
  ForPieces(x.size(), kPiece, [&](int64_t b, int64_t e) {
    Active().dropout(MaskOf(rate, seed), b, x.f32() + b, e - b, false,
                     y.f32() + b);
  });
}

void DropoutBackward(const Tensor& dy, double rate, uint64_t seed, Tensor dx) {
  if (dx.empty()) return;
  ForPieces(dy.size(), kPiece, [&](int64_t b, int64_t e) {
    Active().dropout(MaskOf(rate, seed), b, dy.f32() + b, e - b, !dx.fresh,
                     dx.f32() + b);
  });
}

void Gelu(const Tensor& x, const Tensor& bias, Tensor y) {
  const int64_t cols = x.cols();
  ForPieces(x.rows(), RowsPerPiece(cols), [&](int64_t b, int64_t e) {
    for (int64_t m = b; m < e; ++m) {
      Active().gelu(x.f32() + m * cols, bias.f32(), cols,
                    y.f32() + m * cols);
    }
  });
}

void GeluBackward(const Tensor& x, const Tensor& dy, Tensor dx) {
  if (dx.empty()) return;
  ForPieces(x.size(), kPiece, [&](int64_t b, int64_t e) {
    Active().gelu_backward(x.f32() + b, dy.f32() + b, e - b, !dx.fresh,
                           dx.f32() + b);
  });
}

void MeanPool(const Tensor& x, std::span<const Segment> segments, Tensor y) {
  const int64_t cols = x.cols();
  ForPieces(segments.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const Segment& segment = segments[s];
      float* out = y.f32() + s * cols;
      std::fill_n(out, cols, 0.0f);
      for (int64_t m = segment.row; m < segment.row + segment.rows; ++m) {
        Active().add(out, x.f32() + m * cols, cols, out);
      }
      if (segment.rows == 0) continue;
      Active().scale(1.0f / static_cast<float>(segment.rows), out, cols, out);
    }
  });
}

void MeanPoolBackward(std::span<const Segment> segments, const Tensor& dy,
                      Tensor dx) {
  if (dx.empty()) return;
  const int64_t cols = dy.cols();
  ForPieces(segments.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const Segment& segment = segments[s];
      const float share = 1.0f / static_cast<float>(segment.rows);
      for (int64_t m = segment.row; m < segment.row + segment.rows; ++m) {
        Active().axpy(share, dy.f32() + s * cols, cols, dx.f32() + m * cols);
      }
    }
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
                             !dgate.fresh,
                             dup.empty() ? nullptr : dup.f32() + b,
                             !dup.fresh);
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
