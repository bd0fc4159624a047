// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/flat.h"

#include <algorithm>
#include <cstring>

#include "compose/math/operators.h"

namespace motet::retrieve {
namespace {

// A tile of vectors stays in the caches while a group of queries meets it.
constexpr int64_t kTileRows = 1024;
constexpr int64_t kGroup = 256;

}  // namespace

std::vector<Ranking> SearchFlat(const float* vectors, int64_t first,
                                int64_t rows, int64_t width,
                                std::span<const float> queries, int64_t k,
                                const std::function<bool(int64_t)>& allowed) {
  const int64_t count = static_cast<int64_t>(queries.size()) / width;
  std::vector<TopHits> tops(static_cast<size_t>(count), TopHits(k));
  std::vector<int64_t> kept;
  std::vector<float> gathered;
  std::vector<float> scores(static_cast<size_t>(std::min(count, kGroup)) *
                            kTileRows);
  for (int64_t at = first; at < rows;) {
    // The next tile: as many allowed rows as it takes, gathered where some
    // between them are not.
    kept.clear();
    const int64_t begin = at;
    for (; at < rows && static_cast<int64_t>(kept.size()) < kTileRows; ++at) {
      if (!allowed || allowed(at)) kept.push_back(at);
    }
    if (kept.empty()) break;
    const auto n = static_cast<int64_t>(kept.size());
    const float* tile = vectors + begin * width;
    if (n != at - begin) {
      gathered.resize(static_cast<size_t>(n * width));
      for (int64_t i = 0; i < n; ++i) {
        std::memcpy(gathered.data() + i * width,
                    vectors + kept[static_cast<size_t>(i)] * width,
                    sizeof(float) * static_cast<size_t>(width));
      }
      tile = gathered.data();
    }
    math::Tensor w;
    w.data = const_cast<float*>(tile);
    w.shape = {n, width};
    for (int64_t q = 0; q < count; q += kGroup) {
      const int64_t group = std::min(kGroup, count - q);
      math::Tensor x, y;
      x.data = const_cast<float*>(queries.data() + q * width);
      x.shape = {group, width};
      y.data = scores.data();
      y.shape = {group, n};
      math::Cpu().linear(x, w, y, math::Product::kExact);
      for (int64_t i = 0; i < group; ++i) {
        TopHits& top = tops[static_cast<size_t>(q + i)];
        const float* row = scores.data() + i * n;
        for (int64_t j = 0; j < n; ++j) {
          top.Add(kept[static_cast<size_t>(j)], row[j]);
        }
      }
    }
  }
  std::vector<Ranking> rankings;
  for (TopHits& top : tops) rankings.push_back(top.Take());
  return rankings;
}

}  // namespace motet::retrieve
