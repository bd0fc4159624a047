// SPDX-License-Identifier: Apache-2.0
// The inner loops for AVX2 and FMA. Nothing but intrinsics and our own
// file-local functions (see kernels_avx512.cc).
#include <immintrin.h>

#include "compose/math/cpu/isa.h"

#define MOTET_ISA avx2
#define MOTET_ISA_NAME "avx2"
#include "compose/math/cpu/vec_avx2.inl"

#define MOTET_DIRECT_ROWS 4
#include "compose/math/cpu/turn.inl"
#include "compose/math/cpu/product.inl"

namespace motet::math::cpu::avx2 {
namespace {

// With 16 registers, six rows of one panel at a time; a few rows take more
// panels, so that enough sums are in flight.
void TileF32(const float* a, const float* b, int64_t panel, int64_t terms,
             int64_t rows, int64_t panels, bool add, float* c,
             int64_t stride) {
  if (rows == 1 && panels == 4) {
    return F32Tile::Run<1, 4>(a, b, panel, terms, add, c, stride);
  }
  if (rows == 1 && panels == 3) {
    return F32Tile::Run<1, 3>(a, b, panel, terms, add, c, stride);
  }
  if (panels == 2) {
    switch (rows) {
      case 1:
        return F32Tile::Run<1, 2>(a, b, panel, terms, add, c, stride);
      case 2:
        return F32Tile::Run<2, 2>(a, b, panel, terms, add, c, stride);
      case 3:
        return F32Tile::Run<3, 2>(a, b, panel, terms, add, c, stride);
    }
  }
  for (int64_t r = 0; r < rows; r += 6) {
    float* out = c + r * stride;
    switch (rows - r < 6 ? rows - r : 6) {
#define MOTET_TILE(R)                                                   \
  case R:                                                               \
    F32Tile::Run<R, 1>(a + r, b, panel, terms, add, out, stride);       \
    break;
      MOTET_TILE(1)
      MOTET_TILE(2)
      MOTET_TILE(3)
      MOTET_TILE(4)
      MOTET_TILE(5)
      MOTET_TILE(6)
#undef MOTET_TILE
    }
  }
}

const PanelOps kF32Panels = {
    1,
    1536,
    kDirectRows,
    {1, 4, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    PackF32,
    PackTurnedF32,
    TileF32,
    PackCloseF32,
    DirectF32,
    StraightF32,
    nullptr};

}  // namespace
}  // namespace motet::math::cpu::avx2

#include "compose/math/cpu/sums.inl"
#include "compose/math/cpu/rows.inl"

namespace motet::math::cpu {

const Isa& Avx2() { return avx2::kIsa; }

}  // namespace motet::math::cpu
