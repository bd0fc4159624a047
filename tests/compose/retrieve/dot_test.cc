// SPDX-License-Identifier: Apache-2.0
// One inner product on every instruction set, to the bit, of any length.
#include "compose/retrieve/dot.h"

#include <cmath>
#include <random>

#include "gtest/gtest.h"

namespace motet::retrieve {
namespace {

TEST(Dot, TheSameBitsOnEveryInstructionSet) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const std::vector<Dot> dots = Dots();
  ASSERT_FALSE(dots.empty());
  EXPECT_EQ(dots.back(), BestDot());
  for (int64_t n = 0; n <= 800; n += n < 130 ? 1 : 67) {
    // Nothing behind the end is read into the sum.
    std::vector<float> a(static_cast<size_t>(n) + 64, NAN), b = a;
    double sum = 0, size = 0;
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
      a[i] = normal(random);
      b[i] = normal(random);
      sum += static_cast<double>(a[i]) * b[i];
      size += std::abs(static_cast<double>(a[i]) * b[i]);
    }
    const float plain = dots[0](a.data(), b.data(), n);
    EXPECT_NEAR(plain, sum, 1e-6 * size) << n;
    for (const Dot dot : dots) {
      EXPECT_EQ(dot(a.data(), b.data(), n), plain) << n;
    }
  }
}

}  // namespace
}  // namespace motet::retrieve
