// SPDX-License-Identifier: Apache-2.0
// What the forward and the backward pass of attention share: blocks of keys,
// and products of packed panels (product.h) within one head.
// Internal to attention*.cc.
#pragma once

#include <algorithm>
#include <cstdint>

#include "compose/math/cpu/isa.h"
#include "compose/math/operators.h"

namespace motet::math::cpu {

constexpr int64_t kBlock = 64;  // keys, and rows of a task
constexpr int64_t kBlockPanels = kBlock / kPanel;

inline int64_t Pad(int64_t n) { return (n + kPanel - 1) / kPanel * kPanel; }

inline const PanelOps& OpsFor(const HeadShape& shape) {
  return shape.product == Product::kBf16 ? Active().bf16 : Active().f32;
}

// With a window W, the row at position p sees keys p - W + 1 on. Which keys of
// the block at j are before that: at most kBlock.
inline int64_t Unseen(int64_t position, int64_t j, int64_t window) {
  if (window == 0) return 0;
  return std::clamp<int64_t>(position - window + 1 - j, 0, kBlock);
}

// Numbers of a dtype, and the row that lies `numbers` behind.
struct Numbers {
  Numbers(const float* x = nullptr) : data(x), dtype(DType::kF32) {}
  Numbers(const void* x, DType kind) : data(x), dtype(kind) {}
  const void* data;
  DType dtype;
  Numbers operator+(int64_t numbers) const {
    return {static_cast<const char*>(data) + numbers * ByteSize(dtype), dtype};
  }
};

// Panels of sixteen rows each of x [rows, dim] at `stride`.
inline void PackRowsOf(const PanelOps& ops, Numbers x, int64_t stride,
                       int64_t rows, int64_t dim, float* to) {
  const int64_t panel = ops.Words(dim) * kPanel;
  for (int64_t r = 0; r < rows; r += kPanel, to += panel) {
    ops.pack((x + r * stride).data, x.dtype, stride,
             std::min(kPanel, rows - r), dim, to);
  }
}

// Panels of sixteen columns each: the terms are the rows.
inline void PackColumnsOf(const PanelOps& ops, Numbers x, int64_t stride,
                          int64_t rows, int64_t cols, float* to,
                          int64_t panel_words) {
  ops.pack_turned(x.data, x.dtype, stride, cols, rows, to, panel_words);
}

// c [rows, 16 panels] (+)= a b for `rows` rows of panels a (a_words apart).
inline void MultiplyPanels(const PanelOps& ops, const float* a,
                           int64_t a_words, int64_t rows, const float* b,
                           int64_t b_words, int64_t panels, int64_t terms,
                           bool add, float* c, int64_t stride) {
  for (int64_t r = 0; r < rows; r += kPanel, a += a_words) {
    const int64_t count = std::min(kPanel, rows - r);
    const int64_t most = ops.PanelsFor(count);
    for (int64_t p = 0; p < panels;) {
      const int64_t some = std::min(panels - p, most);
      ops.tile(a, b + p * b_words, b_words, terms, count, some, add,
               c + r * stride + p * kPanel, stride);
      p += some;
    }
  }
}

}  // namespace motet::math::cpu
