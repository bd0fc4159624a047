// SPDX-License-Identifier: Apache-2.0
// Sums of rows, the same for every instruction set: a dot product in sixteen
// lanes and one tree, and the sequential product that attention runs on.
namespace motet::math::cpu::MOTET_ISA {
namespace {

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

void WidenRow(const uint16_t* bits, DType dtype, int64_t n, float* out) {
  const auto load = [&](const uint16_t* p) {
    return dtype == DType::kF16 ? LoadHalf(p) : Load(p);
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, load(bits + i));
  if (i == n) return;
  uint16_t rest[kLanes] = {};
  for (int64_t j = i; j < n; ++j) rest[j - i] = bits[j];
  StoreFirst(out + i, load(rest), n - i);
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
