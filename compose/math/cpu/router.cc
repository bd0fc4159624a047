// SPDX-License-Identifier: Apache-2.0
// Formulas: reference/router.cc, reference/choice.cc. Choices have a handful of
// numbers a row: the plain forms, rows over threads. Combine runs an expert after the other, so
// that a token's sum is in ascending order of experts.
#include <algorithm>
#include <cstring>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/kernels.h"

namespace motet::math::cpu {
namespace {

constexpr int64_t kRouterRows = 256;

std::span<const ExpertMask> Slice(std::span<const ExpertMask> allowed,
                                  int64_t row, int64_t rows) {
  return allowed.empty() ? allowed : allowed.subspan(row, rows);
}

RowLimits Slice(const RowLimits& limits, int64_t row, int64_t rows) {
  return {Slice(limits.allowed, row, rows),
          limits.active.empty() ? limits.active
                                : limits.active.subspan(row, rows),
          limits.shared};
}

}  // namespace

void TopK(const Tensor& x, const RowLimits& limits, bool renormalise,
          Tensor idx, Tensor w) {
  ForPieces(x.rows(), kRouterRows, [&](int64_t b, int64_t e) {
    reference::TopK(x.RowSlice(b, e - b), Slice(limits, b, e - b), renormalise,
                    idx.RowSlice(b, e - b),
                    w.RowSlice(b, e - b));
  });
}

void TopKBackward(const Tensor& x, std::span<const ExpertMask> allowed,
                  bool renormalise, const Tensor& idx, const Tensor& w,
                  const Tensor& dw, Tensor dx) {
  if (dx.empty()) return;
  ForPieces(x.rows(), kRouterRows, [&](int64_t b, int64_t e) {
    reference::TopKBackward(x.RowSlice(b, e - b), Slice(allowed, b, e - b),
                            renormalise, idx.RowSlice(b, e - b),
                            w.RowSlice(b, e - b), dw.RowSlice(b, e - b),
                            dx.RowSlice(b, e - b));
  });
}

void TopP(const Tensor& x, const RowLimits& limits, double p,
          bool renormalise, Tensor idx, Tensor w) {
  ForPieces(x.rows(), kRouterRows, [&](int64_t b, int64_t e) {
    reference::TopP(x.RowSlice(b, e - b), Slice(limits, b, e - b), p,
                    renormalise, idx.RowSlice(b, e - b),
                    w.RowSlice(b, e - b));
  });
}

void NullTopK(const Tensor& x, const Tensor& nulls, const RowLimits& limits,
              Tensor idx, Tensor w) {
  ForPieces(x.rows(), kRouterRows, [&](int64_t b, int64_t e) {
    reference::NullTopK(x.RowSlice(b, e - b), nulls.RowSlice(b, e - b),
                        Slice(limits, b, e - b), idx.RowSlice(b, e - b),
                        w.RowSlice(b, e - b));
  });
}

void Capacity(const Tensor& idx, const Tensor& w, int64_t capacity,
              Tensor kept, Tensor kept_w) {
  reference::Capacity(idx, w, capacity, kept, kept_w);
}

void CapacityBackward(const Tensor& kept, const Tensor& dkept_w, Tensor dw) {
  reference::CapacityBackward(kept, dkept_w, dw);
}

double LoadBalance(const Tensor& x, const Tensor& idx, const Tensor& w,
                   bool counts, ExpertMask shared, std::span<double> totals) {
  return reference::LoadBalance(x, idx, w, counts, shared, totals);
}

void LoadBalanceBackward(const Tensor& x, const Tensor& idx, const Tensor& w,
                         bool counts, ExpertMask shared,
                         std::span<const double> totals, double scale,
                         Tensor dx, Tensor dw) {
  reference::LoadBalanceBackward(x, idx, w, counts, shared, totals, scale, dx,
                                 dw);
}

void Combine(const Tensor& w, std::span<const ExpertRows> experts, Tensor y) {
  const int64_t cols = y.cols(), choices = w.cols();
  ForPieces(y.rows(), RowsPerPiece(cols), [&](int64_t b, int64_t e) {
    std::memset(y.f32() + b * cols, 0, (e - b) * cols * sizeof(float));
  });
  for (const ExpertRows& expert : experts) {
    ForPieces(expert.rows.size(), RowsPerPiece(cols),
              [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) {
        const int64_t m = expert.rows[i];
        Active().axpy(w.f32()[m * choices + expert.slots[i]],
                      expert.f.f32() + i * cols, cols, y.f32() + m * cols);
      }
    });
  }
}

void CombineBackward(const Tensor& w, std::span<const ExpertRows> experts,
                     const Tensor& dy, Tensor dw) {
  const int64_t cols = dy.cols(), choices = w.cols();
  for (const ExpertRows& expert : experts) {
    Tensor df = expert.df;
    ForPieces(expert.rows.size(), RowsPerPiece(cols),
              [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) {
        const int64_t m = expert.rows[i];
        const int64_t at = m * choices + expert.slots[i];
        const float* d = dy.f32() + m * cols;
        if (!df.empty()) {
          Active().axpy(w.f32()[at], d, cols, df.f32() + i * cols);
        }
        if (!dw.empty()) {
          dw.f32()[at] += Active().dot(expert.f.f32() + i * cols, d, cols);
        }
      }
    });
  }
}

}  // namespace motet::math::cpu
