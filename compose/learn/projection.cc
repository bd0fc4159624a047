// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/projection.h"

#include <algorithm>

#include "compose/learn/eigen.h"
#include "compose/learn/hash.h"

namespace motet::learn {

std::vector<double> Orthonormal(int64_t rows, int64_t columns, uint64_t seed) {
  const int64_t count = std::min(rows, columns);
  const int64_t length = std::max(rows, columns);
  std::vector<double> vectors(static_cast<size_t>(count * length));
  for (size_t i = 0; i < vectors.size(); ++i) vectors[i] = Normal(seed, i);
  Orthonormalise(vectors, count, length);
  if (rows < columns) return vectors;
  std::vector<double> matrix(vectors.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      matrix[static_cast<size_t>(r * columns + c)] =
          vectors[static_cast<size_t>(c * length + r)];
    }
  }
  return matrix;
}

std::vector<double> Times(const std::vector<double>& matrix,
                          const std::vector<double>& x) {
  std::vector<double> y(matrix.size() / x.size());
  for (size_t r = 0; r < y.size(); ++r) {
    for (size_t c = 0; c < x.size(); ++c) {
      y[r] += matrix[r * x.size() + c] * x[c];
    }
  }
  return y;
}

}  // namespace motet::learn
