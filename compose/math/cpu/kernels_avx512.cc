// SPDX-License-Identifier: Apache-2.0
// The inner loops for AVX-512. Nothing but intrinsics and our own
// file-local functions: an inline function of a library header compiled
// here could be linked into code that runs on lesser processors.
// GCC 12 warns about its own headers.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "compose/math/cpu/isa.h"

#define MOTET_ISA avx512
#define MOTET_ISA_NAME "avx512"
#include "compose/math/cpu/vec_avx512.inl"

namespace motet::math::cpu::avx512 {
namespace {

constexpr int kTileCols = 6;
constexpr int kDirectCols = 4;
constexpr int kProductVectors = 4;
constexpr int kProductSums = 24;

// Four sums of 16 lanes become four quads: steps +8 and +4 of the tree.
inline __m512 Quads(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44),
                                  _mm512_shuffle_f32x4(a, b, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44),
                                  _mm512_shuffle_f32x4(c, d, 0xee));
  return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88),
                       _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

// Step +2 of the tree, two columns side by side.
inline __m512 Pairs(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}

void Tile(const float* x, const float* w, int64_t steps, int64_t rows,
          int64_t cols, float* y, int64_t stride) {
  __m512 sum[kTileRows][kTileCols];
  for (int r = 0; r < kTileRows; ++r) {
    for (int o = 0; o < kTileCols; ++o) sum[r][o] = _mm512_setzero_ps();
  }
  for (int64_t s = 0; s < steps; ++s) {
    __m512 row[kTileRows];
    for (int r = 0; r < kTileRows; ++r) row[r] = _mm512_load_ps(x + r * 16);
    for (int o = 0; o < kTileCols; ++o) {
      const __m512 weight = _mm512_load_ps(w + o * 16);
      for (int r = 0; r < kTileRows; ++r) {
        sum[r][o] = _mm512_fmadd_ps(row[r], weight, sum[r][o]);
      }
    }
    x += kTileRows * 16;
    w += kTileCols * 16;
  }
  __m512 quads[kTileCols];
  for (int o = 0; o < kTileCols; ++o) {
    quads[o] = Quads(sum[0][o], sum[1][o], sum[2][o], sum[3][o]);
  }
  const __m512 p01 = Pairs(quads[0], quads[1]);
  const __m512 p23 = Pairs(quads[2], quads[3]);
  const __m512 p45 = Pairs(quads[4], quads[5]);
  // In 128-bit lane r: columns 0-3, and columns 4 and 5, of row r.
  alignas(64) float left[16], right[16];
  _mm512_store_ps(left, _mm512_add_ps(_mm512_shuffle_ps(p01, p23, 0x44),
                                      _mm512_shuffle_ps(p01, p23, 0xee)));
  _mm512_store_ps(right,
                  _mm512_add_ps(p45, _mm512_shuffle_ps(p45, p45, 0xee)));
  for (int64_t r = 0; r < rows; ++r) {
    float* out = y + r * stride;
    if (cols == kTileCols) {
      _mm_storeu_ps(out, _mm_load_ps(left + 4 * r));
      out[4] = right[4 * r];
      out[5] = right[4 * r + 1];
      continue;
    }
    for (int64_t o = 0; o < cols; ++o) {
      out[o] = o < 4 ? left[4 * r + o] : right[4 * r + o - 4];
    }
  }
}

}  // namespace
}  // namespace motet::math::cpu::avx512

#include "compose/math/cpu/linear.inl"
#include "compose/math/cpu/rows.inl"

namespace motet::math::cpu {

const Isa& Avx512() { return avx512::kIsa; }

}  // namespace motet::math::cpu
