// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/projection.h"

#include <cmath>

#include "gtest/gtest.h"

namespace motet::learn {
namespace {

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

TEST(Projection, ShorterSideIsOrthonormal) {
  for (const auto& [rows, columns] :
       {std::pair{40, 24}, std::pair{24, 40}, std::pair{32, 32},
        std::pair{1, 7}, std::pair{7, 1}}) {
    SCOPED_TRACE(rows);
    const auto p = Orthonormal(rows, columns, 5);
    ASSERT_EQ(p.size(), static_cast<size_t>(rows * columns));
    const bool tall = rows >= columns;
    const int count = tall ? columns : rows, length = tall ? rows : columns;
    const auto at = [&](int vector, int i) {
      return tall ? p[static_cast<size_t>(i * columns + vector)]
                  : p[static_cast<size_t>(vector * columns + i)];
    };
    for (int a = 0; a < count; ++a) {
      for (int b = 0; b <= a; ++b) {
        double dot = 0;
        for (int i = 0; i < length; ++i) dot += at(a, i) * at(b, i);
        EXPECT_NEAR(dot, a == b ? 1 : 0, 1e-14) << a << " " << b;
      }
    }
  }
}

TEST(Projection, FollowsFromItsSeed) {
  EXPECT_EQ(Orthonormal(24, 16, 1), Orthonormal(24, 16, 1));
  EXPECT_NE(Orthonormal(24, 16, 1), Orthonormal(24, 16, 2));
}

TEST(Projection, KeepsAnglesWhereThereIsRoom) {
  std::vector<double> x(16), y(16);
  for (int i = 0; i < 16; ++i) x[i] = std::sin(i), y[i] = std::cos(3 * i);
  const auto p = Orthonormal(24, 16, 9);
  EXPECT_NEAR(Dot(Times(p, x), Times(p, y)), Dot(x, y), 1e-12);
  EXPECT_NEAR(Dot(Times(p, x), Times(p, x)), Dot(x, x), 1e-12);
}

}  // namespace
}  // namespace motet::learn
