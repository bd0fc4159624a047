// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/cholesky.h"

#include <cmath>
#include <cstddef>

namespace motet::learn {
namespace {

double Dot(const double* x, const double* y, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// a = L L^T; L replaces the lower triangle.
bool Factor(double* a, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    double* row = a + j * n;
    const double pivot = row[j] - Dot(row, row, j);
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    row[j] = std::sqrt(pivot);
    for (int64_t i = j + 1; i < n; ++i) {
      a[i * n + j] = (a[i * n + j] - Dot(a + i * n, row, j)) / row[j];
    }
  }
  return true;
}

}  // namespace

bool InvertPositive(std::vector<double>& a, int64_t n) {
  if (!Factor(a.data(), n)) return false;
  // Column k of L^-1, stored as row k: inverse[k*n + i], i >= k.
  std::vector<double> inverse(static_cast<size_t>(n * n));
#pragma omp parallel for schedule(dynamic, 8)
  for (int64_t k = 0; k < n; ++k) {
    double* column = inverse.data() + k * n;
    for (int64_t i = k; i < n; ++i) {
      const double* row = a.data() + i * n;
      const double sum = Dot(row + k, column + k, i - k);
      column[i] = ((i == k ? 1.0 : 0.0) - sum) / row[i];
    }
  }
  // (L L^T)^-1 = L^-T L^-1: entry (i,j) sums over k >= max(i,j).
#pragma omp parallel for schedule(dynamic, 8)
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      const double value =
          Dot(inverse.data() + i * n + i, inverse.data() + j * n + i, n - i);
      a[static_cast<size_t>(i * n + j)] = value;
      a[static_cast<size_t>(j * n + i)] = value;
    }
  }
  return true;
}

bool ShapeByInverse(std::vector<double> a, int64_t n, double* z) {
  if (!Factor(a.data(), n)) return false;
  for (int64_t i = n - 1; i >= 0; --i) {
    double sum = z[i];
    for (int64_t k = i + 1; k < n; ++k) {
      sum -= a[static_cast<size_t>(k * n + i)] * z[k];
    }
    z[i] = sum / a[static_cast<size_t>(i * n + i)];
  }
  return true;
}

}  // namespace motet::learn
