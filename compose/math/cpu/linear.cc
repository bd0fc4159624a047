// SPDX-License-Identifier: Apache-2.0
// Linear: our product in one fixed order (linear.inl), or the library's.
#include <algorithm>
#include <cstring>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/kernels.h"

#ifdef MOTET_HAS_DNNL
#include <dnnl.h>
#endif

namespace motet::math::cpu {
namespace {

constexpr int64_t kTaskTiles = 32;         // 128 rows of x
constexpr int64_t kTaskPanels = 8;         // 48 or 24 rows of W
constexpr int64_t kPanelBytes = 128 << 10;  // of a task, in the L2 cache
constexpr int64_t kInnerTiles = 8;         // 32 rows of x over a panel

struct Weights {
  const void* data;
  bool bf16;
  int64_t cols;
  const void* row(int64_t n) const {
    return static_cast<const char*>(data) + n * cols * (bf16 ? 2 : 4);
  }
};

Weights WeightsOf(const Tensor& w) {
  return {w.data, w.dtype == DType::kBF16, w.cols()};
}

// y = x W^T with x in panels of kTileRows rows. A task packs a few panels of
// W, then runs its rows over them, a few tiles at a time: a panel of W stays
// in L1 for those tiles, and the lines of y until all panels wrote theirs.
void Tiled(const float* x, int64_t rows, const Weights& w, int64_t outputs,
           float* y) {
  const Isa& isa = Active();
  const int64_t cols = w.cols, steps = (cols + kLanes - 1) / kLanes;
  const int64_t tile_floats = kTileRows * steps * kLanes;
  const int64_t panel_floats = isa.tile_cols * steps * kLanes;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t blocks = (tiles + kTaskTiles - 1) / kTaskTiles;
  const int64_t panels = std::clamp<int64_t>(
      kPanelBytes / (panel_floats * int64_t{sizeof(float)}), 1, kTaskPanels);
  const int64_t width = isa.tile_cols * panels;
  const int64_t groups = (outputs + width - 1) / width;
  thread_local Scratch x_scratch;
  float* packed_x = x_scratch.Get(tiles * tile_floats);

#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tiles; ++t) {
      isa.pack(x + t * kTileRows * cols, false, cols,
               std::min(kTileRows, rows - t * kTileRows), cols, kTileRows,
               packed_x + t * tile_floats);
    }
    thread_local Scratch w_scratch;
    float* packed_w = w_scratch.Get(panels * panel_floats);
#pragma omp for schedule(dynamic, 1) collapse(2)
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t first = g * width;
        const int64_t last = std::min(outputs, first + width);
        for (int64_t n = first; n < last; n += isa.tile_cols) {
          isa.pack(w.row(n), w.bf16, cols, std::min(isa.tile_cols, last - n),
                   cols, isa.tile_cols,
                   packed_w + (n - first) / isa.tile_cols * panel_floats);
        }
        const int64_t end = std::min(tiles, (b + 1) * kTaskTiles);
        for (int64_t inner = b * kTaskTiles; inner < end;
             inner += kInnerTiles) {
          const int64_t inner_end = std::min(end, inner + kInnerTiles);
          for (int64_t n = first; n < last; n += isa.tile_cols) {
            for (int64_t t = inner; t < inner_end; ++t) {
              const int64_t m = t * kTileRows;
              isa.tile(packed_x + t * tile_floats,
                       packed_w + (n - first) / isa.tile_cols * panel_floats,
                       steps, std::min(kTileRows, rows - m),
                       std::min(isa.tile_cols, last - n),
                       y + m * outputs + n, outputs);
            }
          }
        }
      }
    }
  }
}

// The fixed-order product. Few rows read the weights where they lie, at the
// speed of memory; both ways sum alike.
void Exact(const float* x, int64_t rows, const Weights& w, int64_t outputs,
           float* y) {
  if (rows > kTileRows) return Tiled(x, rows, w, outputs, y);
  if (rows == 0) return;
  // A piece is 32 Ki weights at least, and whole groups of four rows.
  const int64_t piece = (RowsPerPiece(w.cols / 2 + 1) + 3) / 4 * 4;
  ForPieces(outputs, piece, [&](int64_t begin, int64_t end) {
    Active().few_rows(x, rows, w.row(begin), w.bf16, end - begin, w.cols,
                      y + begin, outputs);
  });
}

#ifdef MOTET_HAS_DNNL
// W as f32: libraries are slow with bf16 where the processor lacks it.
const float* Widened(const Tensor& w) {
  if (w.dtype != DType::kBF16) return w.f32();
  thread_local Scratch scratch;
  float* wide = scratch.Get(w.size());
  ForPieces(w.rows(), RowsPerPiece(w.cols()), [&](int64_t b, int64_t e) {
    Active().widen(w.bf16() + b * w.cols(), (e - b) * w.cols(),
                   wide + b * w.cols());
  });
  return wide;
}

void Sgemm(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k,
           const float* a, int64_t lda, const float* b, int64_t ldb,
           float beta, float* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  const dnnl_status_t status = dnnl_sgemm(trans_a, trans_b, m, n, k, 1.0f, a,
                                          lda, b, ldb, beta, c, ldc);
  MOTET_CHECK(status == dnnl_success);
}
#endif

// c [rows,cols] += a b, a addressed by strides; the products without a
// library. Sums run in ascending order of the term.
[[maybe_unused]] void AddProduct(const float* a, int64_t a_row,
                                 int64_t a_term, int64_t rows, int64_t terms,
                                 const Tensor& b, Tensor c) {
  const Isa& isa = Active();
  const int64_t cols = c.cols(), vectors = cols / kLanes;
  const int64_t tail = cols - vectors * kLanes;
  ForPieces(rows, 32, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    constexpr int64_t kTerms = 256;
    float* wide = scratch.Get(kTerms * (cols + kLanes) + 32 * kLanes);
    float* side = wide + kTerms * cols;
    float* edge = side + kTerms * kLanes;
    std::memset(side, 0, kTerms * kLanes * sizeof(float));
    for (int64_t t = 0; t < terms; t += kTerms) {
      const int64_t used = std::min(kTerms, terms - t);
      const float* from = b.f32() + t * cols;
      if (b.dtype == DType::kBF16) {
        isa.widen(b.bf16() + t * cols, used * cols, wide);
        from = wide;
      }
      const float* factors = a + begin * a_row + t * a_term;
      isa.product(factors, a_row, a_term, end - begin, used, from, cols,
                  c.f32() + begin * cols, cols, vectors, true);
      if (tail == 0) continue;
      for (int64_t i = 0; i < used; ++i) {
        std::copy_n(from + i * cols + cols - tail, tail, side + i * kLanes);
      }
      isa.product(factors, a_row, a_term, end - begin, used, side, kLanes,
                  edge, kLanes, 1, false);
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t i = 0; i < tail; ++i) {
          c.f32()[r * cols + cols - tail + i] +=
              edge[(r - begin) * kLanes + i];
        }
      }
    }
  });
}

}  // namespace

// Matrix product with a weight stored as it is multiplied.
//   y[m,n] = sum_c x[m,c] W[n,c]
// x: [M,C] f32 in.   w: [N,C] f32 or bf16 in.   y: [M,N] f32 out.
// kExact: linear.inl's order; kLibrary: oneDNN's, where it was built in, for
// more rows than a matrix-vector product.
void Linear(const Tensor& x, const Tensor& w, Tensor y, Product product) {
  const int64_t rows = x.rows(), outputs = w.rows();
#ifdef MOTET_HAS_DNNL
  const int64_t cols = x.cols();
  if (product == Product::kLibrary && rows > kTileRows) {
    return Sgemm('N', 'T', rows, outputs, cols, x.f32(), cols, Widened(w),
                 cols, 0.0f, y.f32(), outputs);
  }
#endif
  Exact(x.f32(), rows, WeightsOf(w), outputs, y.f32());
}

//   dx[m,c] += sum_n dy[m,n] W[n,c]      dW[n,c] += sum_m dy[m,n] x[m,c]
void LinearBackward(const Tensor& x, const Tensor& w, const Tensor& dy,
                    Tensor dx, Tensor dw) {
  const int64_t rows = x.rows(), outputs = w.rows();
#ifdef MOTET_HAS_DNNL
  const int64_t cols = x.cols();
  if (!dx.empty()) {
    Sgemm('N', 'N', rows, cols, outputs, dy.f32(), outputs, Widened(w), cols,
          1.0f, dx.f32(), cols);
  }
  if (!dw.empty()) {
    Sgemm('T', 'N', outputs, cols, rows, dy.f32(), outputs, x.f32(), cols,
          1.0f, dw.f32(), cols);
  }
#else
  if (!dx.empty()) {
    AddProduct(dy.f32(), outputs, 1, rows, outputs, w, dx);
  }
  if (!dw.empty()) AddProduct(dy.f32(), 1, outputs, outputs, rows, x, dw);
#endif
}

}  // namespace motet::math::cpu
