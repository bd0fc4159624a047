// SPDX-License-Identifier: Apache-2.0
// Rows to columns, sixteen rows at a time, for the packers of product.inl and
// kernels_avx512bf16.cc; and the 16-bit kinds of numbers.
namespace motet::math::cpu::MOTET_ISA {
namespace {

constexpr int kDirectRows = MOTET_DIRECT_ROWS;  // that the direct form takes

struct Bf16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// From where sixteen pointers say.
inline void Turn(const char* const* rows, Vec out[4]) {
  TurnFrom(
      [&](int r) {
        return _mm_loadu_ps(reinterpret_cast<const float*>(rows[r]));
      },
      out);
}

// From rows `stride` bytes apart: few registers hold all addresses.
inline void TurnAt(const char* first, int64_t stride, Vec out[4]) {
  const char* quarter[4] = {first, first + 4 * stride, first + 8 * stride,
                            first + 12 * stride};
  const int64_t triple = 3 * stride;
  TurnFrom(
      [&](int r) {
        const int i = r % 4;
        return _mm_loadu_ps(reinterpret_cast<const float*>(
            quarter[r / 4] + (i == 3 ? triple : i * stride)));
      },
      out);
}

// The lines of the panel behind this one, which will be wanted next.
inline void Expect(const char* first, int64_t stride) {
  for (int64_t r = 0; r < kPanel; ++r) {
    _mm_prefetch(first + (kPanel + r) * stride, _MM_HINT_T1);
  }
}

// F::Run<R>(a, a_stride, w, stride, terms, c, c_stride) for rows of a up to
// kDirectRows by panels of w one after another: two at a time, which are 32
// streams of memory, were read slower (Intel, family 6 model 207).
template <typename F, typename S>
void DirectRows(const float* a, int64_t a_stride, int64_t rows, const S* w,
                int64_t stride, int64_t terms, float* c, int64_t c_stride) {
  switch (rows) {
#define MOTET_DIRECT(R)                                                \
  case R:                                                              \
    if constexpr (R <= kDirectRows) {                                  \
      for (int64_t n = 0; n < kDirectPanels * kPanel; n += kPanel) {   \
        F::template Run<R>(a, a_stride, w + n * stride, stride, terms, \
                           c + n, c_stride);                           \
      }                                                                \
    }                                                                  \
    return;
    MOTET_DIRECT(1)
    MOTET_DIRECT(2)
    MOTET_DIRECT(3)
    MOTET_DIRECT(4)
    MOTET_DIRECT(5)
    MOTET_DIRECT(6)
    MOTET_DIRECT(7)
    MOTET_DIRECT(8)
    MOTET_DIRECT(9)
    MOTET_DIRECT(10)
    MOTET_DIRECT(11)
    MOTET_DIRECT(12)
    MOTET_DIRECT(13)
    MOTET_DIRECT(14)
    MOTET_DIRECT(15)
    MOTET_DIRECT(16)
#undef MOTET_DIRECT
  }
}

// F::Run<R, P>(a, v, stride, terms, c, c_stride) for few rows of a by all
// columns of v: as many panels at a time as two registers of sums a row.
template <typename F, int R, typename S>
inline void StraightColumns(const float* a, const S* v, int64_t stride,
                            int64_t terms, int64_t cols, float* c,
                            int64_t c_stride) {
  constexpr int64_t kWide = 2 * kPanel;
  int64_t n = 0;
  for (; n + kWide <= cols; n += kWide) {
    F::template Run<R, 2>(a, v + n, stride, terms, c + n, c_stride);
  }
  if (n < cols) F::template Run<R, 1>(a, v + n, stride, terms, c + n, c_stride);
}

template <typename F, typename S>
void StraightRows(const float* a, int64_t rows, const S* v, int64_t stride,
                  int64_t terms, int64_t cols, float* c, int64_t c_stride) {
  static_assert(kStraightRows == 4);
  switch (rows) {
#define MOTET_STRAIGHT(R) \
  case R:                 \
    return StraightColumns<F, R>(a, v, stride, terms, cols, c, c_stride);
    MOTET_STRAIGHT(1)
    MOTET_STRAIGHT(2)
    MOTET_STRAIGHT(3)
    MOTET_STRAIGHT(4)
#undef MOTET_STRAIGHT
  }
}

}  // namespace
}  // namespace motet::math::cpu::MOTET_ISA
