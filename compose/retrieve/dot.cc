// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/dot.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace motet::retrieve {
namespace {

// A walk goes from row to row far apart, so a row's lines are all asked for
// first.
#define MOTET_DOT_BODY                                              \
  constexpr int kSums = 32;                                         \
  float sums[kSums] = {};                                           \
  for (int64_t line = 0; line < n; line += 16) {                    \
    __builtin_prefetch(b + line);                                   \
  }                                                                 \
  int64_t i = 0;                                                    \
  for (; i + kSums <= n; i += kSums) {                              \
    for (int j = 0; j < kSums; ++j) sums[j] += a[i + j] * b[i + j]; \
  }                                                                 \
  for (int j = 0; i < n; ++i, ++j) sums[j] += a[i] * b[i];          \
  for (int half = kSums / 2; half > 0; half /= 2) {                 \
    for (int j = 0; j < half; ++j) sums[j] += sums[j + half];       \
  }                                                                 \
  return sums[0];

float DotPlain(const float* a, const float* b, int64_t n) { MOTET_DOT_BODY }

#if defined(__x86_64__)
__attribute__((target("avx2"))) float DotAvx2(const float* a, const float* b,
                                              int64_t n) {
  MOTET_DOT_BODY
}

// The sums of the body above in the lanes of two registers: the same bits.
__attribute__((target("avx512f"))) float DotAvx512(const float* a,
                                                   const float* b, int64_t n) {
  for (int64_t line = 0; line < n; line += 16) __builtin_prefetch(b + line);
  __m512 even = _mm512_setzero_ps(), odd = even;
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    even = _mm512_add_ps(
        even, _mm512_mul_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i)));
    odd = _mm512_add_ps(odd, _mm512_mul_ps(_mm512_loadu_ps(a + i + 16),
                                           _mm512_loadu_ps(b + i + 16)));
  }
  if (i < n) {
    const uint32_t rest = (uint32_t{1} << (n - i)) - 1;
    const auto first = static_cast<__mmask16>(rest);
    const auto last = static_cast<__mmask16>(rest >> 16);
    even =
        _mm512_mask_add_ps(even, first, even,
                           _mm512_mul_ps(_mm512_maskz_loadu_ps(first, a + i),
                                         _mm512_maskz_loadu_ps(first, b + i)));
    odd = _mm512_mask_add_ps(
        odd, last, odd,
        _mm512_mul_ps(_mm512_maskz_loadu_ps(last, a + i + 16),
                      _mm512_maskz_loadu_ps(last, b + i + 16)));
  }
  alignas(64) float lanes[16];
  _mm512_store_ps(lanes, _mm512_add_ps(even, odd));
  const __m256 eight =
      _mm256_add_ps(_mm256_load_ps(lanes), _mm256_load_ps(lanes + 8));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight),
                                 _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
#endif

}  // namespace

std::vector<Dot> Dots() {
  std::vector<Dot> dots = {DotPlain};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) dots.push_back(DotAvx2);
  if (__builtin_cpu_supports("avx512f")) dots.push_back(DotAvx512);
#endif
  return dots;
}

Dot BestDot() {
  static const Dot best = Dots().back();
  return best;
}

}  // namespace motet::retrieve
