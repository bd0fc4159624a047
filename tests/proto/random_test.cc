// SPDX-License-Identifier: Apache-2.0
// What noise is drawn from: the right distribution, and never twice the same.
#include "proto/random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace motet::proto {
namespace {

// The bounds are ten standard errors wide.
TEST(RandomTest, NormalsHaveTheMomentsOfTheirName) {
  constexpr int kDraws = 200001;
  const auto draws = SecureNormals(kDraws);
  ASSERT_TRUE(draws.ok()) << draws.status();
  ASSERT_EQ(draws->size(), static_cast<size_t>(kDraws));
  double mean = 0, square = 0, fourth = 0, neighbours = 0;
  for (size_t i = 0; i < draws->size(); ++i) {
    const double x = (*draws)[i];
    ASSERT_TRUE(std::isfinite(x));
    mean += x / kDraws;
    square += x * x / kDraws;
    fourth += x * x * x * x / kDraws;
    if (i > 0) neighbours += x * (*draws)[i - 1] / kDraws;
  }
  EXPECT_NEAR(mean, 0, 10 / std::sqrt(kDraws));
  EXPECT_NEAR(square, 1, 10 * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(fourth, 3, 10 * std::sqrt(96.0 / kDraws));
  EXPECT_NEAR(neighbours, 0, 10 / std::sqrt(kDraws));
}

TEST(RandomTest, NoTwoDrawsAlike) {
  const auto one = SecureNormals(8), other = SecureNormals(8);
  ASSERT_TRUE(one.ok() && other.ok());
  EXPECT_NE(*one, *other);
}

}  // namespace
}  // namespace motet::proto
