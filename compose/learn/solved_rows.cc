// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/solved_rows.h"

#include <cmath>
#include <cstddef>

#include "compose/learn/cholesky.h"

namespace motet::learn {
namespace {

// sum_j A_j + lambda I, both halves.
std::vector<double> Total(std::span<const MomentsView> parts, int64_t width,
                          double lambda) {
  std::vector<double> total(static_cast<size_t>(width * width));
  size_t at = 0;
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = 0; j <= i; ++j, ++at) {
      double sum = i == j ? lambda : 0;
      for (const MomentsView& part : parts) sum += part.products[at];
      total[static_cast<size_t>(i * width + j)] = sum;
      total[static_cast<size_t>(j * width + i)] = sum;
    }
  }
  return total;
}

}  // namespace

std::vector<double> SolveRows(std::span<const MomentsView> parts,
                              int64_t width, double lambda) {
  std::vector<double> inverse = Total(parts, width, lambda);
  // Ends: a lambda beyond the entries makes the diagonal dominate.
  while (!InvertPositive(inverse, width)) {
    lambda *= 10;
    if (!std::isfinite(lambda)) break;
    inverse = Total(parts, width, lambda);
  }
  std::vector<double> rows(parts.size() * static_cast<size_t>(width));
  for (size_t p = 0; p < parts.size(); ++p) {
    double* row = rows.data() + p * static_cast<size_t>(width);
    double square = 0;
    for (int64_t i = 0; i < width; ++i) {
      const double* from = inverse.data() + i * width;
      for (int64_t j = 0; j < width; ++j) row[i] += from[j] * parts[p].sum[j];
      square += row[i] * row[i];
    }
    if (!(square > 0)) continue;
    const double length = std::sqrt(square);
    for (int64_t i = 0; i < width; ++i) row[i] /= length;
  }
  return rows;
}

Discriminants SolveDiscriminants(std::span<const MomentsView> parts,
                                 int64_t width, double ridge) {
  const auto at = [width](int64_t i, int64_t j) {
    return static_cast<size_t>(i * width + j);
  };
  std::vector<double> sigma(static_cast<size_t>(width * width));
  double tokens = 0;
  for (const MomentsView& part : parts) tokens += part.tokens;
  double trace = 0;
  size_t entry = 0;
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = 0; j <= i; ++j, ++entry) {
      double sum = 0;
      for (const MomentsView& part : parts) {
        sum += part.products[entry] - part.sum[i] * part.sum[j] / part.tokens;
      }
      sigma[at(i, j)] = sigma[at(j, i)] = sum / tokens;
    }
    trace += sigma[at(i, i)];
  }
  double lambda = ridge * trace / static_cast<double>(width);
  if (!(lambda > 0)) lambda = ridge;
  std::vector<double> inverse;
  do {
    inverse = sigma;
    for (int64_t i = 0; i < width; ++i) inverse[at(i, i)] += lambda;
    lambda *= 10;
  } while (!InvertPositive(inverse, width) && std::isfinite(lambda));
  Discriminants out;
  for (const MomentsView& part : parts) {
    double product = 0;
    for (int64_t i = 0; i < width; ++i) {
      double w = 0;
      for (int64_t j = 0; j < width; ++j) {
        w += inverse[at(i, j)] * (part.sum[j] / part.tokens);
      }
      out.w.push_back(w);
      product += part.sum[i] / part.tokens * w;
    }
    out.c.push_back(-0.5 * product);
  }
  return out;
}

}  // namespace motet::learn
