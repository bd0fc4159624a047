// SPDX-License-Identifier: Apache-2.0
// The inner loops that are compiled once for each instruction set. Drivers
// (linear.cc, attention.cc, ...) are plain C++, split the work over threads
// and call these. Every loop gives the same bits on every set: sums run in
// 16 lanes and one fixed tree, or one after another, always by fused
// multiply-add; exp is one polynomial.
// Internal to compose/math/cpu and its tests.
#pragma once

#include <cstdint>

namespace motet::math::cpu {

inline constexpr int64_t kLanes = 16;
inline constexpr int64_t kTileRows = 4;  // rows of x in a tile of linear

struct AdamWStep {
  float gradient_scale, beta1, beta2, keep, rate, root_correction, eps;
};

struct Isa {
  const char* name;
  int64_t tile_cols;  // weights in a tile of linear

  // Panels for tile(): dst[c/16][r][c%16] = src[r*stride + c], zeros past
  // rows and cols; `tile` rows in the panel.
  void (*pack)(const void* src, bool bf16, int64_t stride, int64_t rows,
               int64_t cols, int64_t tile, float* dst);
  // y[r*stride + n] = x_r.w_n for the panels' rows; rows <= kTileRows,
  // cols <= tile_cols are written.
  void (*tile)(const float* x, const float* w, int64_t steps, int64_t rows,
               int64_t cols, float* y, int64_t stride);
  // The same sums without panels; rows <= kTileRows of x [rows, cols].
  void (*few_rows)(const float* x, int64_t rows, const void* w, bool bf16,
                   int64_t outputs, int64_t cols, float* y, int64_t stride);
  float (*dot)(const float* a, const float* b, int64_t n);
  void (*widen)(const uint16_t* bf16, int64_t n, float* out);
  void (*add)(const float* a, const float* b, int64_t n, float* y);
  // y = a + s b; a may be null.
  void (*add_scaled)(const float* a, float s, const float* b, int64_t n,
                     float* y);
  void (*gelu)(const float* x, int64_t n, float* y);
  void (*gelu_backward)(const float* x, const float* dy, int64_t n,
                        float* dx);
  void (*scale)(float a, const float* x, int64_t n, float* y);
  // y[i] = fma(a, x[i], y[i])
  void (*axpy)(float a, const float* x, int64_t n, float* y);

  // c[r, 0..16*vectors) (+)= sum_t a[r*a_row + t*a_term] b[t*b_row + .],
  // t ascending, one fused multiply-add each.
  void (*product)(const float* a, int64_t a_row, int64_t a_term, int64_t rows,
                  int64_t terms, const float* b, int64_t b_row, float* c,
                  int64_t c_row, int64_t vectors, bool accumulate);
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
  // dx (+=) and dw (+=, over these rows) may be null.
  void (*rms_norm_backward)(const float* x, const float* w,
                            const float* inverse_rms, const float* dy,
                            int64_t rows, int64_t cols, float* dx, float* dw);
  // moments [rows,2] may be null.
  void (*layer_norm)(const float* x, const float* w, const float* b, float eps,
                     int64_t rows, int64_t cols, float* y, float* moments);
  // dx (+=) and dw (+=, over these rows) may be null.
  void (*layer_norm_backward)(const float* x, const float* w,
                              const float* moments, const float* dy,
                              int64_t rows, int64_t cols, float* dx,
                              float* dw);
  // Rotates every head of one row; out = or, if accumulate, +=.
  void (*rope)(const float* x, int64_t cols, int64_t head_dim,
               const float* cosine, const float* sine, float sign,
               bool accumulate, float* out);
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* y);
  void (*swiglu_backward)(const float* gate, const float* up, const float* dy,
                          int64_t n, float* dgate, float* dup);
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
bool HasAvx512();

// The set in use: the best one, or what MOTET_CPU says.
const Isa& Active();
// For tests that compare sets; not while kernels run.
void Activate(const Isa& isa);

}  // namespace motet::math::cpu
