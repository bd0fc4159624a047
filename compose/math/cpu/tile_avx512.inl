// SPDX-License-Identifier: Apache-2.0
// Which tile for how many rows, with 32 registers: T::Run<R, P>(a, b,
// panel_words, terms, add, c, stride) keeps R x P sums. Included inside the
// namespaces of kernels_avx512*.cc.
//
// Eight rows of three panels are 24 multiply-adds for eleven loads. Sixteen
// rows of one panel are sixteen for seventeen, which processors that do two
// of each at a time wait for.
template <typename T, int P>
void TileRows(const float* a, const float* b, int64_t panel, int64_t terms,
              int64_t rows, bool add, float* c, int64_t stride) {
  switch (rows) {
#define MOTET_TILE(R)                                                     \
  case R:                                                                 \
    if constexpr (R * P <= 24) {                                          \
      T::template Run<R, P>(a, b, panel, terms, add, c, stride);          \
    }                                                                     \
    return;
    MOTET_TILE(1)
    MOTET_TILE(2)
    MOTET_TILE(3)
    MOTET_TILE(4)
    MOTET_TILE(5)
    MOTET_TILE(6)
    MOTET_TILE(7)
    MOTET_TILE(8)
    MOTET_TILE(9)
    MOTET_TILE(10)
    MOTET_TILE(11)
    MOTET_TILE(12)
    MOTET_TILE(13)
    MOTET_TILE(14)
    MOTET_TILE(15)
    MOTET_TILE(16)
#undef MOTET_TILE
  }
}

template <typename T, int P>
void TileParts(const float* a, const float* b, int64_t panel, int64_t terms,
               int64_t rows, bool add, float* c, int64_t stride) {
  constexpr int64_t kMost = P == 1 ? 16 : P <= 3 ? 8 : 6;
  for (int64_t r = 0; r < rows; r += kMost) {
    TileRows<T, P>(a + r, b, panel, terms, rows - r < kMost ? rows - r : kMost,
                   add, c + r * stride, stride);
  }
}

template <typename T>
void TileOf(const float* a, const float* b, int64_t panel, int64_t terms,
            int64_t rows, int64_t panels, bool add, float* c,
            int64_t stride) {
  switch (panels) {
    case 1:
      return TileParts<T, 1>(a, b, panel, terms, rows, add, c, stride);
    case 2:
      return TileParts<T, 2>(a, b, panel, terms, rows, add, c, stride);
    case 3:
      return TileParts<T, 3>(a, b, panel, terms, rows, add, c, stride);
    case 4:
      return TileParts<T, 4>(a, b, panel, terms, rows, add, c, stride);
  }
}
