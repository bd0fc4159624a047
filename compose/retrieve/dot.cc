// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/dot.h"

namespace motet::retrieve {
namespace {

#define MOTET_DOT_BODY                                              \
  constexpr int kSums = 16;                                         \
  float sums[kSums] = {};                                           \
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
#endif

}  // namespace

Dot BestDot() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return DotAvx2;
#endif
  return DotPlain;
}

}  // namespace motet::retrieve
