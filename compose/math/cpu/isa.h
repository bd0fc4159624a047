// SPDX-License-Identifier: Apache-2.0
// The inner loops that are compiled once for each instruction set. Drivers
// (product.cc, attention.cc, ...) are plain C++, split the work over threads
// and call these. Every f32 loop gives the same bits on every set: sums run
// in 16 lanes and one fixed tree, or one after another, always by fused
// multiply-add; exp is one polynomial. bf16 products have sets of their own.
// Internal to compose/math/cpu and its tests.
#pragma once

#include <cstdint>

#include "compose/math/dropout.h"
#include "compose/math/tensor.h"

namespace motet::math::cpu {

inline constexpr int64_t kLanes = 16;

struct AdamWStep {
  float gradient_scale, beta1, beta2, keep, rate, root_correction, eps;
};

// Panels of sixteen rows for Multiply (product.h). A word is one f32 term, or
// two of bf16.
inline constexpr int64_t kPanel = 16;
inline constexpr int64_t kDirectPanels = 2;
inline constexpr int64_t kStraightRows = 4;
inline constexpr int64_t kWidePanels = 3;
struct PanelOps {
  int64_t terms_a_word;
  int64_t block_words;            // of a panel in the first-level cache
  int64_t direct_rows;            // that `direct` takes at most
  int8_t panels_for[kPanel + 1];  // that a tile of so many rows takes at once

  // dst[word][row] of src, whose element (row, k) lies at row*stride + k. f32,
  // bf16 or f16; rows <= 16, the rest is never used.
  void (*pack)(const void* src, DType dtype, int64_t stride, int64_t rows,
               int64_t terms, float* dst);
  // The same of elements at k*stride + row, for as many panels as there are
  // rows: each term's rows lie together.
  void (*pack_turned)(const void* src, DType dtype, int64_t stride,
                      int64_t rows, int64_t terms, float* dst,
                      int64_t panel_words);
  // c[r*stride + n] (+)= sum_k a[k][r] b[k][n], rows of one panel a, and
  // `panels` panels of b, `panel_words` apart; terms ascending.
  void (*tile)(const float* a, const float* b, int64_t panel_words,
               int64_t terms, int64_t rows, int64_t panels, bool add,
               float* c, int64_t stride);
  // dst[word][row] as close together as there are rows: what `direct` reads
  // again for every panel stays in the first-level cache. src is f32.
  void (*pack_close)(const float* src, int64_t stride, int64_t rows,
                     int64_t terms, float* dst);
  // c[r*c_stride + n] = sum_k a[k][r] w[n*stride + k]: a few rows, words
  // a_stride apart, by kDirectPanels panels of w where they lie.
  void (*direct)(const float* a, int64_t a_stride, int64_t rows,
                 const void* w, DType dtype, int64_t stride, int64_t terms,
                 float* c, int64_t c_stride);
  // c[r*c_stride + n] += sum_k a[k][r] v[k*stride + n]: up to kStraightRows
  // rows of a panel by rows of v (f32 or bf16) where they lie; n < cols, whole
  // panels. The tile's sums.
  void (*straight)(const float* a, int64_t rows, const void* v, DType dtype,
                   int64_t stride, int64_t terms, int64_t cols, float* c,
                   int64_t c_stride);
  // c[r*c_stride + n] = sum_k a[k][r] w[n*stride + k]: up to kWidePanels
  // panels of rows, panel_words apart, by sixteen columns of bf16 weights
  // where they lie; an even number of terms. The tile's sums. nullptr where
  // packing weights is as good.
  void (*wide)(const float* a, int64_t panel_words, int64_t rows,
               const void* w, int64_t stride, int64_t terms, float* c,
               int64_t c_stride);

  int64_t Words(int64_t terms) const {
    return (terms + terms_a_word - 1) / terms_a_word;
  }
  int64_t PanelsFor(int64_t rows) const { return panels_for[rows]; }
};

struct Isa {
  const char* name;
  PanelOps f32;
  PanelOps bf16;  // tile == nullptr where the processor cannot

  float (*dot)(const float* a, const float* b, int64_t n);
  // bf16 or f16
  void (*widen)(const uint16_t* bits, DType dtype, int64_t n, float* out);
  void (*narrow)(const float* x, int64_t n, uint16_t* bf16);
  void (*add)(const float* a, const float* b, int64_t n, float* y);
  // y = a + s b; a may be null.
  void (*add_scaled)(const float* a, float s, const float* b, int64_t n,
                     float* y);
  // Numbers first, first + 1, ... of a tensor; y = or, if accumulate, +=.
  void (*dropout)(const DropoutMask& mask, int64_t first, const float* x,
                  int64_t n, bool accumulate, float* y);
  // Of x + bias; bias may be null.
  void (*gelu)(const float* x, const float* bias, int64_t n, float* y);
  void (*gelu_backward)(const float* x, const float* dy, int64_t n, bool add,
                        float* dx);
  void (*scale)(float a, const float* x, int64_t n, float* y);
  // y[i] = fma(a, x[i], y[i])
  void (*axpy)(float a, const float* x, int64_t n, float* y);

  // One row's online softmax over a block of scores: scores past `visible`
  // go, the rest become exp(scale s - top); top, total and out are brought
  // up to date.
  void (*softmax_block)(float* scores, int64_t block, int64_t visible,
                        float scale, float* top, float* total, float* out,
                        int64_t vectors);
  // p = exp(scale s - lse) or 0 past visible; dp = p (dp - inner) scale.
  void (*softmax_block_backward)(float* scores, float* dp, int64_t block,
                                 int64_t visible, float scale, float lse,
                                 float inner);

  void (*rms_norm)(const float* x, const float* w, float eps, int64_t rows,
                   int64_t cols, float* y, float* inverse_rms);
  // dx (+= or, unless add, =; so in every backward here) and dw (+=, over
  // these rows) may be null.
  void (*rms_norm_backward)(const float* x, const float* w,
                            const float* inverse_rms, const float* dy,
                            int64_t rows, int64_t cols, float* dx, bool add,
                            float* dw);
  // moments [rows,2] may be null.
  void (*layer_norm)(const float* x, const float* w, const float* b, float eps,
                     int64_t rows, int64_t cols, float* y, float* moments);
  // dx (+= or, unless add, =; so in every backward here) and dw (+=, over
  // these rows) may be null.
  void (*layer_norm_backward)(const float* x, const float* w,
                              const float* moments, const float* dy,
                              int64_t rows, int64_t cols, float* dx, bool add,
                              float* dw);
  // Rotates every head of one row; out = or, if accumulate, +=.
  void (*rope)(const float* x, int64_t cols, int64_t head_dim,
               const float* cosine, const float* sine, float sign,
               bool accumulate, float* out);
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* y);
  void (*swiglu_backward)(const float* gate, const float* up, const float* dy,
                          int64_t n, float* dgate, bool add_gate, float* dup,
                          bool add_up);
  // top = max x, total = sum exp(x - top)
  void (*softmax_total)(const float* x, int64_t n, float* top, float* total);
  // out[i] += factor exp(x[i] - lse)
  void (*add_scaled_exp)(const float* x, int64_t n, float lse, float factor,
                         float* out);
  void (*adamw)(float* parameter, const float* gradient, float* m, float* v,
                int64_t n, const AdamWStep& step);
};

const Isa& Avx2();
const Isa& Avx512();
// fast: with the form of bf16 products for a few rows that suits processors
// whose FastBf16() is true; the other has the same bits.
const Isa& Avx512Bf16(bool fast);
bool HasAvx512();
bool HasAvx512Bf16();

// The set in use: the best one, or what MOTET_CPU says.
const Isa& Active();
// For tests that compare sets; not while kernels run.
void Activate(const Isa& isa);

}  // namespace motet::math::cpu
