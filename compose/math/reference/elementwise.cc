// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <utility>

#include "compose/math/dropout.h"
#include "compose/math/kernels.h"

namespace motet::math::reference {

// One row of the table for each id.
//   y[m,c] = table[ids[m], c]
// ids: [M].   table: [V,C] f32, bf16 or f16 in.   y: [M,C] f32 out.
void Embed(std::span<const int32_t> ids, const Tensor& table, Tensor y) {
  const int64_t cols = table.cols();
  for (size_t m = 0; m < ids.size(); ++m) {
    for (int64_t c = 0; c < cols; ++c) {
      const int64_t from = ids[m] * cols + c;
      y.f32()[m * cols + c] =
          table.dtype == DType::kBF16  ? WidenBf16(table.bf16()[from])
          : table.dtype == DType::kF16 ? WidenF16(table.bf16()[from])
                                       : table.f32()[from];
    }
  }
}

//   dtable[ids[m], c] += dy[m,c]
void EmbedBackward(std::span<const int32_t> ids, const Tensor& dy,
                   Tensor dtable) {
  if (dtable.empty()) return;
  const int64_t cols = dtable.cols();
  for (size_t m = 0; m < ids.size(); ++m) {
    for (int64_t c = 0; c < cols; ++c) {
      dtable.f32()[ids[m] * cols + c] += dy.f32()[m * cols + c];
    }
  }
}

//   y = a + b; y may be a or b. (Backward: da += dy, by Add itself.)
void Add(const Tensor& a, const Tensor& b, Tensor y) {
  for (int64_t i = 0; i < a.size(); ++i) {
    y.f32()[i] = a.f32()[i] + b.f32()[i];
  }
}

// The gated activation of the feed-forward network.
//   y = g sigmoid(g) u                                  [arXiv 2002.05202]
// gate, up: [M,F] in.   y: [M,F] out.
void SwiGlu(const Tensor& gate, const Tensor& up, Tensor y) {
  for (int64_t i = 0; i < gate.size(); ++i) {
    const double g = gate.f32()[i];
    y.f32()[i] = static_cast<float>(g / (1 + std::exp(-g)) * up.f32()[i]);
  }
}

//   s = sigmoid(g)   dg += dy u s (1 + g (1 - s))   du += dy g s
void SwiGluBackward(const Tensor& gate, const Tensor& up, const Tensor& dy,
                    Tensor dgate, Tensor dup) {
  ClearFresh({dgate, dup});
  for (int64_t i = 0; i < gate.size(); ++i) {
    const double g = gate.f32()[i], d = dy.f32()[i];
    const double s = 1 / (1 + std::exp(-g));
    if (!dgate.empty()) {
      dgate.f32()[i] +=
          static_cast<float>(d * up.f32()[i] * s * (1 + g * (1 - s)));
    }
    if (!dup.empty()) dup.f32()[i] += static_cast<float>(d * g * s);
  }
}

// One number a column, added to every row.
//   y[m,c] = x[m,c] + b[c]; y may be x. (Backward of x: dx += dy, by Add.)
// x: [M,C] in.   b: [C] in.   y: [M,C] out.
void AddBias(const Tensor& x, const Tensor& b, Tensor y) {
  const int64_t cols = x.cols();
  for (int64_t i = 0; i < x.size(); ++i) {
    y.f32()[i] = x.f32()[i] + b.f32()[i % cols];
  }
}

//   db[c] += sum_m dy[m,c]
void AddBiasBackward(const Tensor& dy, Tensor db) {
  const int64_t cols = dy.cols();
  for (int64_t c = 0; c < cols && !db.empty(); ++c) {
    double sum = 0;
    for (int64_t m = 0; m < dy.rows(); ++m) sum += dy.f32()[m * cols + c];
    db.f32()[c] += static_cast<float>(sum);
  }
}

//   y = a + s b; y may be a; without a: s b.
//   Backward: da += dy by Add; db += s dy by AddScaled itself.
void AddScaled(const Tensor& a, float s, const Tensor& b, Tensor y) {
  for (int64_t i = 0; i < b.size(); ++i) {
    const double first = a.empty() ? 0 : a.f32()[i];
    y.f32()[i] = static_cast<float>(first + double{s} * b.f32()[i]);
  }
}

// Noise for what is trained: numbers go at random, the others make up for them.
//   y = k x, k = 0 for a share of `rate`, else 1 / (1 - rate)   [arXiv 1207.0580]
// x: [M,C] in, fewer than 2^32 numbers.   y: [M,C] out, may be x.
void Dropout(const Tensor& x, double rate, uint64_t seed, Tensor y) {
  const DropoutMask mask = MaskOf(rate, seed);
  for (int64_t i = 0; i < x.size(); ++i) {
    y.f32()[i] = DropoutFactor(mask, static_cast<uint32_t>(i)) * x.f32()[i];
  }
}

//   dx += k dy
void DropoutBackward(const Tensor& dy, double rate, uint64_t seed, Tensor dx) {
  ClearFresh({dx});
  const DropoutMask mask = MaskOf(rate, seed);
  for (int64_t i = 0; i < dy.size() && !dx.empty(); ++i) {
    dx.f32()[i] += DropoutFactor(mask, static_cast<uint32_t>(i)) * dy.f32()[i];
  }
}

// Gaussian error linear unit, the exact form.
//   y = x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2     [arXiv 1606.08415]
// x: [M,F] in.   y: [M,F] out, may be x.   bias: [F] in, x + bias in place of
// x; may be empty.
void Gelu(const Tensor& x, const Tensor& bias, Tensor y) {
  const int64_t cols = x.cols();
  for (int64_t i = 0; i < x.size(); ++i) {
    double v = x.f32()[i];
    if (!bias.empty()) v += bias.f32()[i % cols];
    y.f32()[i] = static_cast<float>(v * std::erfc(-v * M_SQRT1_2) / 2);
  }
}

//   dx += dy (Phi(x) + x phi(x)), phi(x) = exp(-x^2 / 2) / sqrt(2 pi)
void GeluBackward(const Tensor& x, const Tensor& dy, Tensor dx) {
  ClearFresh({dx});
  for (int64_t i = 0; i < x.size() && !dx.empty(); ++i) {
    const double v = x.f32()[i];
    const double density = std::exp(-v * v / 2) / std::sqrt(2 * M_PI);
    const double below = std::erfc(-v * M_SQRT1_2) / 2;
    dx.f32()[i] += static_cast<float>(dy.f32()[i] * (below + v * density));
  }
}

// The mean of each segment's rows.
//   y[s,c] = mean over the rows m of segment s of x[m,c]; 0 without rows
// x: [M,C] in.   segments: [S].   y: [S,C] out.
void MeanPool(const Tensor& x, std::span<const Segment> segments, Tensor y) {
  const int64_t cols = x.cols();
  for (size_t s = 0; s < segments.size(); ++s) {
    const auto [row, rows] = std::pair(segments[s].row, segments[s].rows);
    for (int64_t c = 0; c < cols; ++c) {
      double sum = 0;
      for (int64_t m = row; m < row + rows; ++m) sum += x.f32()[m * cols + c];
      y.f32()[s * cols + c] = rows == 0 ? 0 : static_cast<float>(sum / rows);
    }
  }
}

//   dx[m,c] += dy[s,c] / rows of s, for the rows m of segment s
void MeanPoolBackward(std::span<const Segment> segments, const Tensor& dy,
                      Tensor dx) {
  const int64_t cols = dy.cols();
  for (size_t s = 0; s < segments.size() && !dx.empty(); ++s) {
    const auto [row, rows] = std::pair(segments[s].row, segments[s].rows);
    for (int64_t m = row; m < row + rows; ++m) {
      for (int64_t c = 0; c < cols; ++c) {
        dx.f32()[m * cols + c] += dy.f32()[s * cols + c] / rows;
      }
    }
  }
}

// The owner's training-time bias, never positive; the base has none.
//   y[m,0] = x[m,0]     y[m,e] = x[m,e] + min(b[e-1], 0)   [FlexOlmo 3.3]
// x: [M,E] in.   b: [E-1] in.   y: [M,E] out.
void OwnerBias(const Tensor& x, const Tensor& b, Tensor y) {
  const int64_t experts = x.cols();
  for (int64_t m = 0; m < x.rows(); ++m) {
    for (int64_t e = 0; e < experts; ++e) {
      const float bias = e == 0 ? 0.0f : std::min(b.f32()[e - 1], 0.0f);
      y.f32()[m * experts + e] = x.f32()[m * experts + e] + bias;
    }
  }
}

//   dx += dy     db[e-1] += sum_m dy[m,e] where b[e-1] <= 0
// At b = 0 the gradient passes, as in torch.clamp(b, max=0).
void OwnerBiasBackward(const Tensor& b, const Tensor& dy, Tensor dx,
                       Tensor db) {
  const int64_t experts = dy.cols();
  if (!dx.empty()) Add(dx, dy, dx);
  for (int64_t e = 1; e < experts && !db.empty(); ++e) {
    if (b.f32()[e - 1] > 0) continue;
    double sum = 0;
    for (int64_t m = 0; m < dy.rows(); ++m) sum += dy.f32()[m * experts + e];
    db.f32()[e - 1] += static_cast<float>(sum);
  }
}

// The rows of an expert's tokens, side by side.
//   y[i,c] = x[rows[i], c]
// x: [M,C] in.   rows: [m], each in [0, M).   y: [m,C] out.
void Gather(const Tensor& x, std::span<const int32_t> rows, Tensor y) {
  const int64_t cols = x.cols();
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(x.f32() + rows[i] * cols, cols, y.f32() + i * cols);
  }
}

//   dx[rows[i], c] += dy[i,c]
void GatherBackward(std::span<const int32_t> rows, const Tensor& dy,
                    Tensor dx) {
  if (dx.empty()) return;
  const int64_t cols = dx.cols();
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int64_t c = 0; c < cols; ++c) {
      dx.f32()[rows[i] * cols + c] += dy.f32()[i * cols + c];
    }
  }
}

}  // namespace motet::math::reference
