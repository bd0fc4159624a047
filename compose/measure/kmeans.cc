// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/kmeans.h"

#include <algorithm>
#include <limits>
#include <random>

namespace motet::measure {
namespace {

double Distance(const float* a, const double* b, int64_t width) {
  double sum = 0;
  for (int64_t c = 0; c < width; ++c) {
    const double d = a[c] - b[c];
    sum += d * d;
  }
  return sum;
}

}  // namespace

std::vector<float> KMeans(std::span<const float> vectors, int64_t width,
                          int64_t k, uint64_t seed) {
  const int64_t n = static_cast<int64_t>(vectors.size()) / width;
  k = std::min(k, n);
  std::vector<double> means;
  std::vector<double> nearest(static_cast<size_t>(n),
                              std::numeric_limits<double>::infinity());
  std::mt19937_64 random(seed);
  const auto start = [&](int64_t i) {
    const float* v = vectors.data() + i * width;
    means.insert(means.end(), v, v + width);
    const double* mean = means.data() + means.size() - width;
    for (int64_t j = 0; j < n; ++j) {
      double& d = nearest[static_cast<size_t>(j)];
      d = std::min(d, Distance(vectors.data() + j * width, mean, width));
    }
  };
  if (k > 0) start(static_cast<int64_t>(random() % static_cast<uint64_t>(n)));
  for (int64_t c = 1; c < k; ++c) {
    double all = 0;
    for (double d : nearest) all += d;
    // 53 bits of it, in [0, 1).
    double at = static_cast<double>(random() >> 11) * 0x1p-53 * all;
    int64_t i = 0;
    while (i + 1 < n && (at -= nearest[static_cast<size_t>(i)]) >= 0) ++i;
    start(i);
  }
  std::vector<int64_t> cluster(static_cast<size_t>(n), -1);
  for (int round = 0; round < 100; ++round) {
    bool moved = false;
    for (int64_t i = 0; i < n; ++i) {
      int64_t best = 0;
      double least = std::numeric_limits<double>::infinity();
      for (int64_t c = 0; c < k; ++c) {
        const double d = Distance(vectors.data() + i * width,
                                  means.data() + c * width, width);
        if (d < least) {
          least = d;
          best = c;
        }
      }
      moved |= cluster[static_cast<size_t>(i)] != best;
      cluster[static_cast<size_t>(i)] = best;
    }
    if (!moved) break;
    std::vector<double> sums(means.size(), 0.0);
    std::vector<int64_t> counts(static_cast<size_t>(k), 0);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t c = cluster[static_cast<size_t>(i)];
      ++counts[static_cast<size_t>(c)];
      for (int64_t j = 0; j < width; ++j) {
        sums[static_cast<size_t>(c * width + j)] +=
            vectors[static_cast<size_t>(i * width + j)];
      }
    }
    for (int64_t c = 0; c < k; ++c) {
      const int64_t count = counts[static_cast<size_t>(c)];
      if (count == 0) continue;  // stays where it is
      for (int64_t j = 0; j < width; ++j) {
        means[static_cast<size_t>(c * width + j)] =
            sums[static_cast<size_t>(c * width + j)] /
            static_cast<double>(count);
      }
    }
  }
  // One that lost its vectors to others is no mean of anything.
  std::vector<float> kept;
  for (int64_t c = 0; c < k; ++c) {
    if (std::count(cluster.begin(), cluster.end(), c) == 0) continue;
    for (int64_t j = 0; j < width; ++j) {
      kept.push_back(static_cast<float>(means[static_cast<size_t>(
          c * width + j)]));
    }
  }
  return kept;
}

}  // namespace motet::measure
