// SPDX-License-Identifier: Apache-2.0
// Rows to columns, sixteen rows at a time, for the packers of product.inl and
// kernels_avx512bf16.cc; and the 16-bit kinds of numbers.
namespace motet::math::cpu::MOTET_ISA {
namespace {

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

}  // namespace
}  // namespace motet::math::cpu::MOTET_ISA
