// SPDX-License-Identifier: Apache-2.0
// Inner loops of linear, the same for every instruction set but for Tile,
// which kernels_*.cc defines. One output is sixteen partial sums: lane j
// takes c = j, j+16, ... by fused multiply-add from zero, and the tree of
// Sum() ends it; a tail is padded with zeros. So its bits depend on its row,
// its weight row and C alone.
namespace motet::math::cpu::MOTET_ISA {
namespace {

template <typename W>
void PackRows(const W* src, int64_t stride, int64_t rows, int64_t cols,
              int64_t tile, float* dst) {
  const int64_t steps = (cols + kLanes - 1) / kLanes;
  const int64_t whole = cols / kLanes;
  for (int64_t r = 0; r < tile; ++r) {
    float* out = dst + r * kLanes;
    if (r >= rows) {
      for (int64_t s = 0; s < steps; ++s) {
        Store(out + s * tile * kLanes, Zero());
      }
      continue;
    }
    const W* row = src + r * stride;
    for (int64_t s = 0; s < whole; ++s) {
      Store(out + s * tile * kLanes, Load(row + s * kLanes));
    }
    if (whole < steps) {
      Store(out + whole * tile * kLanes,
            LoadFirst(row + whole * kLanes, cols - whole * kLanes));
    }
  }
}

void Pack(const void* src, bool bf16, int64_t stride, int64_t rows,
          int64_t cols, int64_t tile, float* dst) {
  if (bf16) {
    PackRows(static_cast<const uint16_t*>(src), stride, rows, cols, tile,
             dst);
  } else {
    PackRows(static_cast<const float*>(src), stride, rows, cols, tile, dst);
  }
}

// R rows of x times O rows of w, straight from where they lie.
template <int R, int O, typename W>
inline void Direct(const float* x, const W* w, int64_t cols, float* y,
                   int64_t stride) {
  Vec sum[R][O];
  for (int r = 0; r < R; ++r) {
    for (int o = 0; o < O; ++o) sum[r][o] = Zero();
  }
  int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) {
    Vec row[R];
    for (int r = 0; r < R; ++r) row[r] = Load(x + r * cols + c);
    for (int o = 0; o < O; ++o) {
      const Vec weight = Load(w + o * cols + c);
      for (int r = 0; r < R; ++r) {
        sum[r][o] = Fma(row[r], weight, sum[r][o]);
      }
    }
  }
  if (c < cols) {
    Vec row[R];
    for (int r = 0; r < R; ++r) {
      row[r] = LoadFirst(x + r * cols + c, cols - c);
    }
    for (int o = 0; o < O; ++o) {
      const Vec weight = LoadFirst(w + o * cols + c, cols - c);
      for (int r = 0; r < R; ++r) {
        sum[r][o] = Fma(row[r], weight, sum[r][o]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int o = 0; o < O; ++o) y[r * stride + o] = Sum(sum[r][o]);
  }
}

template <int R, int O, typename W>
void DirectRows(const float* x, const W* w, int64_t outputs, int64_t cols,
                float* y, int64_t stride) {
  int64_t n = 0;
  for (; n + O <= outputs; n += O) {
    Direct<R, O>(x, w + n * cols, cols, y + n, stride);
  }
  for (; n < outputs; ++n) {
    Direct<R, 1>(x, w + n * cols, cols, y + n, stride);
  }
}

template <typename W>
void FewRowsOf(const float* x, int64_t rows, const W* w, int64_t outputs,
               int64_t cols, float* y, int64_t stride) {
  switch (rows) {
    case 1:
      return DirectRows<1, 4>(x, w, outputs, cols, y, stride);
    case 2:
      return DirectRows<2, kDirectCols>(x, w, outputs, cols, y, stride);
    case 3:
      return DirectRows<3, kDirectCols>(x, w, outputs, cols, y, stride);
    case 4:
      return DirectRows<4, kDirectCols / 2>(x, w, outputs, cols, y, stride);
  }
}

void FewRows(const float* x, int64_t rows, const void* w, bool bf16,
             int64_t outputs, int64_t cols, float* y, int64_t stride) {
  if (bf16) {
    FewRowsOf(x, rows, static_cast<const uint16_t*>(w), outputs, cols, y,
              stride);
  } else {
    FewRowsOf(x, rows, static_cast<const float*>(w), outputs, cols, y,
              stride);
  }
}

float Dot(const float* a, const float* b, int64_t n) {
  Vec sum = Zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    sum = Fma(Load(a + i), Load(b + i), sum);
  }
  if (i < n) {
    sum = Fma(LoadFirst(a + i, n - i), LoadFirst(b + i, n - i), sum);
  }
  return Sum(sum);
}

void WidenRow(const uint16_t* bf16, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(bf16 + i));
  if (i < n) StoreFirst(out + i, LoadFirst(bf16 + i, n - i), n - i);
}

void Axpy(float a, const float* x, int64_t n, float* y) {
  const Vec factor = Set(a);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Store(y + i, Fma(factor, Load(x + i), Load(y + i)));
  }
  if (i < n) {
    StoreFirst(
        y + i,
        Fma(factor, LoadFirst(x + i, n - i), LoadFirst(y + i, n - i)),
        n - i);
  }
}

// R rows, V vectors of the sequential product.
template <int R, int V>
inline void ProductTile(const float* a, int64_t a_row, int64_t a_term,
                        int64_t terms, const float* b, int64_t b_row,
                        float* c, int64_t c_row, bool accumulate) {
  Vec sum[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      sum[r][v] = accumulate ? Load(c + r * c_row + v * kLanes) : Zero();
    }
  }
  for (int64_t t = 0; t < terms; ++t) {
    Vec row[V];
    for (int v = 0; v < V; ++v) row[v] = Load(b + t * b_row + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec factor = Set(a[r * a_row + t * a_term]);
      for (int v = 0; v < V; ++v) {
        sum[r][v] = Fma(factor, row[v], sum[r][v]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      Store(c + r * c_row + v * kLanes, sum[r][v]);
    }
  }
}

// As many rows at a time as keep kProductSums vectors in registers.
template <int V>
void ProductColumns(const float* a, int64_t a_row, int64_t a_term,
                    int64_t rows, int64_t terms, const float* b,
                    int64_t b_row, float* c, int64_t c_row, bool accumulate) {
  constexpr int kRows = kProductSums / V;
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) {
    ProductTile<kRows, V>(a + r * a_row, a_row, a_term, terms, b, b_row,
                          c + r * c_row, c_row, accumulate);
  }
  for (; r + 4 <= rows; r += 4) {
    ProductTile<4, V>(a + r * a_row, a_row, a_term, terms, b, b_row,
                      c + r * c_row, c_row, accumulate);
  }
  for (; r < rows; ++r) {
    ProductTile<1, V>(a + r * a_row, a_row, a_term, terms, b, b_row,
                      c + r * c_row, c_row, accumulate);
  }
}

void Product(const float* a, int64_t a_row, int64_t a_term, int64_t rows,
             int64_t terms, const float* b, int64_t b_row, float* c,
             int64_t c_row, int64_t vectors, bool accumulate) {
  int64_t v = 0;
  const auto columns = [&](auto run, int64_t width) {
    for (; v + width <= vectors; v += width) {
      run(a, a_row, a_term, rows, terms, b + v * kLanes, b_row,
          c + v * kLanes, c_row, accumulate);
    }
  };
  if (kProductVectors >= 4) columns(ProductColumns<4>, 4);
  if (kProductVectors >= 2) columns(ProductColumns<2>, 2);
  columns(ProductColumns<1>, 1);
}

}  // namespace
}  // namespace motet::math::cpu::MOTET_ISA
