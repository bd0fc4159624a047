// SPDX-License-Identifier: Apache-2.0
// Some vectors more than are asked for are carried along: they take the part
// of the space that is hard to tell from what is left out. One thread, sums
// in index order: the same bits everywhere.
#include "compose/learn/eigen.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "compose/learn/hash.h"

namespace motet::learn {
namespace {

constexpr int64_t kMore = 8;
constexpr int kMostSteps = 300;
constexpr double kSettled = 1e-10;  // relative change of the Ritz values

double Dot(const double* x, const double* y, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// Cyclic Jacobi. s: [k,k], symmetric, becomes diagonal; rows of q: its
// eigenvectors.
void Diagonalise(std::vector<double>& s, std::vector<double>& q, int64_t k) {
  const auto at = [k](std::vector<double>& m, int64_t i,
                      int64_t j) -> double& {
    return m[static_cast<size_t>(i * k + j)];
  };
  for (int64_t i = 0; i < k; ++i) at(q, i, i) = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off = 0, all = 0;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        all += at(s, i, j) * at(s, i, j);
        if (i != j) off += at(s, i, j) * at(s, i, j);
      }
    }
    if (off <= 1e-26 * all) return;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = i + 1; j < k; ++j) {
        if (at(s, i, j) == 0) continue;
        const double theta = (at(s, j, j) - at(s, i, i)) / (2 * at(s, i, j));
        const double t = (theta >= 0 ? 1 : -1) /
                         (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), sn = t * c;
        for (int64_t m = 0; m < k; ++m) {
          const double x = at(s, m, i), y = at(s, m, j);
          at(s, m, i) = c * x - sn * y;
          at(s, m, j) = sn * x + c * y;
        }
        for (int64_t m = 0; m < k; ++m) {
          const double x = at(s, i, m), y = at(s, j, m);
          at(s, i, m) = c * x - sn * y;
          at(s, j, m) = sn * x + c * y;
          const double a = at(q, i, m), b = at(q, j, m);
          at(q, i, m) = c * a - sn * b;
          at(q, j, m) = sn * a + c * b;
        }
      }
    }
  }
}

}  // namespace

void Orthonormalise(std::vector<double>& v, int64_t rows, int64_t n) {
  uint64_t draw = 0;
  for (int64_t i = 0; i < rows; ++i) {
    double* row = v.data() + i * n;
    const double before = std::sqrt(Dot(row, row, n));
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t j = 0; j < i; ++j) {
        const double* other = v.data() + j * n;
        const double along = Dot(row, other, n);
        for (int64_t c = 0; c < n; ++c) row[c] -= along * other[c];
      }
    }
    const double length = std::sqrt(Dot(row, row, n));
    if (!(length > 1e-12 * before)) {
      for (int64_t c = 0; c < n; ++c) row[c] = Normal(17, draw++);
      --i;  // ends: random rows are independent
      continue;
    }
    for (int64_t c = 0; c < n; ++c) row[c] /= length;
  }
}

std::vector<double> LeadingEigenvectors(const std::vector<double>& a,
                                        int64_t n, int64_t count) {
  const int64_t k = std::min(n, count + kMore);
  std::vector<double> v(static_cast<size_t>(k * n)), next(v.size());
  for (size_t i = 0; i < v.size(); ++i) v[i] = Normal(16, i);
  Orthonormalise(v, k, n);
  std::vector<double> last(static_cast<size_t>(k));
  for (int step = 0; step < kMostSteps; ++step) {
    // next = v a; s = v a v^T; the Ritz vectors are q v, and q v a = q next.
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t c = 0; c < n; ++c) {
        next[i * n + c] = Dot(v.data() + i * n, a.data() + c * n, n);
      }
    }
    std::vector<double> s(static_cast<size_t>(k * k)), q(s.size());
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        s[i * k + j] = s[j * k + i] =
            Dot(next.data() + i * n, v.data() + j * n, n);
      }
    }
    Diagonalise(s, q, k);
    std::vector<int64_t> order(static_cast<size_t>(k));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) {
      return s[x * k + x] > s[y * k + y];
    });
    bool settled = true;
    std::vector<double> ritz(v.size());
    const auto turn = [&](const std::vector<double>& from,
                          std::vector<double>& to) {
      std::fill(to.begin(), to.end(), 0);
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = 0; j < k; ++j) {
          const double weight = q[order[i] * k + j];
          for (int64_t c = 0; c < n; ++c) {
            to[i * n + c] += weight * from[j * n + c];
          }
        }
      }
    };
    for (int64_t i = 0; i < count; ++i) {
      const double value = s[order[i] * k + order[i]];
      settled &= std::abs(value - last[i]) <= kSettled * std::abs(value);
      last[i] = value;
    }
    if (settled || k == n) {
      turn(v, ritz);
      v = std::move(ritz);
      break;
    }
    turn(next, ritz);
    v = std::move(ritz);
    Orthonormalise(v, k, n);
  }
  v.resize(static_cast<size_t>(count * n));
  return v;
}

}  // namespace motet::learn
