// SPDX-License-Identifier: Apache-2.0
// Blocking and threads of Multiply; the loops that count are in product.inl
// and kernels_avx512bf16.cc.
//
// All of a is packed once. A task takes a group of panels of b and a block of
// rows of a; for each block of terms it packs its panels and runs its rows
// over them. c holds the sums between blocks of terms: f32 in, f32 out, so
// where a block ends cannot be seen in the result.
#include "compose/math/cpu/product.h"

#include <algorithm>
#include <cstring>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/operators.h"

namespace motet::math::cpu {
namespace {

constexpr int64_t kGroupBytes = 512 << 10;  // of b, in L2
constexpr int64_t kBlockTiles = 64;         // 1024 rows of a
constexpr int64_t kPackTiles = 4;           // of a, packed together
constexpr int64_t kAlone = int64_t{1} << 15;  // terms x rows one thread packs

int64_t Panels(int64_t rows) { return (rows + kPanel - 1) / kPanel; }

// One product, with what all its tasks share.
struct Call {
  const PanelOps& ops;
  int64_t rows, terms;
  bool add;
  const float* packed_a;  // [tile][terms as stored][kPanel]
  float* c;
  int64_t c_stride;

  int64_t words(int64_t k) const { return ops.Words(k); }
};

// Panels of operand x for rows [row, end) and terms [k, k + n).
void PackPanels(const PanelOps& ops, const Operand& x, int64_t row,
                int64_t end, int64_t k, int64_t n, float* to,
                int64_t panel_words) {
  const int64_t at = x.turned ? k * x.stride + row : row * x.stride + k;
  const int64_t size = ByteSize(x.dtype);
  const char* from = static_cast<const char*>(x.data) + at * size;
  if (x.turned) {
    ops.pack_turned(from, x.dtype, x.stride, end - row, n, to, panel_words);
    return;
  }
  for (; row < end; row += kPanel) {
    ops.pack(from, x.dtype, x.stride, std::min(kPanel, end - row), n, to);
    from += kPanel * x.stride * size;
    to += panel_words;
  }
}

// Tiles [first, last) of a by panels [0, panels) of packed b: some columns
// of c, `width` of them there.
void RunTiles(const Call& call, int64_t first, int64_t last, int64_t col,
              int64_t width, int64_t k, int64_t n, const float* packed_b) {
  const int64_t tile_words = call.words(call.terms) * kPanel;
  const int64_t panel_words = call.words(n) * kPanel;
  const bool add = call.add || k > 0;
  alignas(64) float edge[kPanel * kPanel];
  for (int64_t t = first; t < last; ++t) {
    const int64_t rows = std::min(kPanel, call.rows - t * kPanel);
    const float* a = call.packed_a + t * tile_words + call.words(k) * kPanel;
    // Few rows take several panels at a time: enough sums in flight.
    const int64_t most = call.ops.PanelsFor(rows);
    for (int64_t p = 0; p * kPanel < width;) {
      const int64_t whole = width / kPanel - p;
      const int64_t panels = whole <= 0 ? 1 : std::min(whole, most);
      float* c = call.c + t * kPanel * call.c_stride + col + p * kPanel;
      const float* b = packed_b + p * panel_words;
      if (whole > 0) {
        call.ops.tile(a, b, panel_words, n, rows, panels, add, c,
                      call.c_stride);
      } else {
        const int64_t cols = width - p * kPanel;
        if (add) {
          for (int64_t r = 0; r < rows; ++r) {
            std::copy_n(c + r * call.c_stride, cols, edge + r * kPanel);
          }
        }
        call.ops.tile(a, b, panel_words, n, rows, 1, add, edge, kPanel);
        for (int64_t r = 0; r < rows; ++r) {
          std::copy_n(edge + r * kPanel, cols, c + r * call.c_stride);
        }
      }
      p += panels;
    }
  }
}

}  // namespace

void Multiply(const Operand& a, int64_t rows, const Operand& b, int64_t cols,
              int64_t terms, bool add, Arithmetic arithmetic, float* c,
              int64_t c_stride) {
  if (rows == 0 || cols == 0) return;
  const PanelOps& ops =
      arithmetic == Arithmetic::kBF16 ? Active().bf16 : Active().f32;
  MOTET_CHECK(ops.tile != nullptr);
  const int64_t tiles = Panels(rows), panels = Panels(cols);
  const int64_t tile_words = ops.Words(terms) * kPanel;
  const int64_t block = ops.block_words * ops.terms_a_word;
  // Enough tasks for every thread; in threes, as the bf16 tile likes it.
  const int64_t blocks = (tiles + kBlockTiles - 1) / kBlockTiles;
  const int64_t wanted = (panels * blocks - 1) / (4 * Threads()) + 1;
  const int64_t room = kGroupBytes / (ops.Words(std::min(block, terms)) *
                                      kPanel * int64_t{sizeof(float)});
  const int64_t group = std::min(
      panels, std::max<int64_t>(std::min(wanted + 2, room) / 3 * 3, 3));
  const int64_t groups = (panels + group - 1) / group;
  thread_local Scratch scratch;
  float* packed_a = scratch.Get(tiles * tile_words);
  const Call call{ops, rows, terms, add, packed_a, c, c_stride};
  const auto pack_a = [&](int64_t tile) {
    PackPanels(ops, a, tile * kPanel,
               std::min(rows, (tile + kPackTiles) * kPanel), 0, terms,
               packed_a + tile * tile_words, tile_words);
  };
  const bool alone = rows * terms <= kAlone;
  if (alone) {
    for (int64_t t = 0; t < tiles; t += kPackTiles) pack_a(t);
  }
#pragma omp parallel if (groups * blocks > 1)
  {
    if (!alone) {
#pragma omp for schedule(static)
      for (int64_t t = 0; t < tiles; t += kPackTiles) pack_a(t);
    }
    thread_local Scratch b_scratch;
    float* packed_b =
        b_scratch.Get(group * ops.Words(std::min(block, terms)) * kPanel);
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t task = 0; task < groups * blocks; ++task) {
      const int64_t first = task / blocks * group * kPanel;
      const int64_t last = std::min(cols, first + group * kPanel);
      const int64_t tile = task % blocks * kBlockTiles;
      const int64_t tile_end = std::min(tiles, tile + kBlockTiles);
      for (int64_t k = 0; k < terms; k += block) {
        const int64_t n = std::min(block, terms - k);
        PackPanels(ops, b, first, last, k, n, packed_b, ops.Words(n) * kPanel);
        RunTiles(call, tile, tile_end, first, last - first, k, n, packed_b);
      }
    }
  }
}

}  // namespace motet::math::cpu
