// SPDX-License-Identifier: Apache-2.0
// The inner loops for AVX2 and FMA. Nothing but intrinsics and our own
// file-local functions (see kernels_avx512.cc).
#include <immintrin.h>

#include "compose/math/cpu/isa.h"

#define MOTET_ISA avx2
#define MOTET_ISA_NAME "avx2"
#include "compose/math/cpu/vec_avx2.inl"

namespace motet::math::cpu::avx2 {
namespace {

constexpr int kTileCols = 3;
constexpr int kDirectCols = 2;
constexpr int kProductVectors = 1;
constexpr int kProductSums = 6;

// Eight of the sixteen lanes: with 16 registers, two passes over the panels
// (in the first-level cache) need fewer loads a product than one.
inline void HalfTile(const float* x, const float* w, int64_t steps,
                     __m256 sum[kTileRows][kTileCols]) {
  for (int r = 0; r < kTileRows; ++r) {
    for (int o = 0; o < kTileCols; ++o) sum[r][o] = _mm256_setzero_ps();
  }
  for (int64_t s = 0; s < steps; ++s) {
    __m256 weight[kTileCols];
    for (int o = 0; o < kTileCols; ++o) weight[o] = _mm256_load_ps(w + o * 16);
    for (int r = 0; r < kTileRows; ++r) {
      const __m256 row = _mm256_load_ps(x + r * 16);
      for (int o = 0; o < kTileCols; ++o) {
        sum[r][o] = _mm256_fmadd_ps(row, weight[o], sum[r][o]);
      }
    }
    x += kTileRows * 16;
    w += kTileCols * 16;
  }
}

void Tile(const float* x, const float* w, int64_t steps, int64_t rows,
          int64_t cols, float* y, int64_t stride) {
  __m256 low[kTileRows][kTileCols], high[kTileRows][kTileCols];
  HalfTile(x, w, steps, low);
  HalfTile(x + 8, w + 8, steps, high);
  for (int64_t r = 0; r < rows; ++r) {
    __m128 quads[kTileCols];
    for (int o = 0; o < kTileCols; ++o) {
      quads[o] = Fold(_mm256_add_ps(low[r][o], high[r][o]));
    }
    const __m128 p01 = _mm_add_ps(_mm_unpacklo_ps(quads[0], quads[1]),
                                  _mm_unpackhi_ps(quads[0], quads[1]));
    const __m128 p2 = _mm_add_ps(_mm_unpacklo_ps(quads[2], quads[2]),
                                 _mm_unpackhi_ps(quads[2], quads[2]));
    alignas(16) float out[4];
    _mm_store_ps(out, _mm_add_ps(_mm_shuffle_ps(p01, p2, 0x44),
                                 _mm_shuffle_ps(p01, p2, 0xee)));
    for (int64_t o = 0; o < cols; ++o) y[r * stride + o] = out[o];
  }
}

}  // namespace
}  // namespace motet::math::cpu::avx2

#include "compose/math/cpu/linear.inl"
#include "compose/math/cpu/rows.inl"

namespace motet::math::cpu {

const Isa& Avx2() { return avx2::kIsa; }

}  // namespace motet::math::cpu
