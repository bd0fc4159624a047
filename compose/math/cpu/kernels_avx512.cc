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

#define MOTET_DIRECT_ROWS 16
#include "compose/math/cpu/turn.inl"
#include "compose/math/cpu/product.inl"

namespace motet::math::cpu::avx512 {
namespace {

#include "compose/math/cpu/tile_avx512.inl"

const PanelOps kF32Panels = {1,
                             1536,
                             kDirectRows,
                             {1, 4, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3},
                             PackF32,
                             PackTurnedF32,
                             TileOf<F32Tile>,
                             PackCloseF32,
                             DirectF32,
                             StraightF32,
                             nullptr};

}  // namespace
}  // namespace motet::math::cpu::avx512

#include "compose/math/cpu/sums.inl"
#include "compose/math/cpu/rows.inl"

namespace motet::math::cpu {

const Isa& Avx512() { return avx512::kIsa; }

}  // namespace motet::math::cpu
