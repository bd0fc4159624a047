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

// Meets tiles of rows with all queries.
class Scan {
 public:
  Scan(const float* vectors, int64_t width, std::span<const float> queries,
       int64_t k)
      : vectors_(vectors),
        width_(width),
        queries_(queries),
        count_(static_cast<int64_t>(queries.size()) / width),
        tops_(static_cast<size_t>(count_), TopHits(k)),
        scores_(static_cast<size_t>(std::min(count_, kGroup) * kTileRows)) {}

  // At most kTileRows rows, ascending.
  void Tile(std::span<const int64_t> rows) {
    if (rows.empty()) return;
    const auto n = static_cast<int64_t>(rows.size());
    math::Tensor w;
    w.data = const_cast<float*>(Gathered(rows));
    w.shape = {n, width_};
    for (int64_t q = 0; q < count_; q += kGroup) {
      const int64_t group = std::min(kGroup, count_ - q);
      math::Tensor x, y;
      x.data = const_cast<float*>(queries_.data() + q * width_);
      x.shape = {group, width_};
      y.data = scores_.data();
      y.shape = {group, n};
      math::Cpu().linear(x, w, y, math::Product::kExact);
      for (int64_t i = 0; i < group; ++i) {
        TopHits& top = tops_[static_cast<size_t>(q + i)];
        const float* row = scores_.data() + i * n;
        for (int64_t j = 0; j < n; ++j) {
          top.Add(rows[static_cast<size_t>(j)], row[j]);
        }
      }
    }
  }
  std::vector<Ranking> Take() {
    std::vector<Ranking> rankings;
    for (TopHits& top : tops_) rankings.push_back(top.Take());
    return rankings;
  }

 private:
  // The rows' vectors side by side: where they lie, or copied.
  const float* Gathered(std::span<const int64_t> rows) {
    const auto n = static_cast<int64_t>(rows.size());
    if (rows.back() - rows.front() == n - 1) {
      return vectors_ + rows.front() * width_;
    }
    gathered_.resize(static_cast<size_t>(n * width_));
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(gathered_.data() + i * width_,
                  vectors_ + rows[static_cast<size_t>(i)] * width_,
                  sizeof(float) * static_cast<size_t>(width_));
    }
    return gathered_.data();
  }

  const float* vectors_;
  int64_t width_;
  std::span<const float> queries_;
  int64_t count_;
  std::vector<TopHits> tops_;
  std::vector<float> gathered_, scores_;
};

}  // namespace

std::vector<Ranking> SearchFlat(const float* vectors, int64_t first,
                                int64_t rows, int64_t width,
                                std::span<const float> queries, int64_t k,
                                const std::function<bool(int64_t)>& allowed) {
  Scan scan(vectors, width, queries, k);
  std::vector<int64_t> tile;
  for (int64_t row = first; row < rows; ++row) {
    if (!allowed || allowed(row)) tile.push_back(row);
    if (static_cast<int64_t>(tile.size()) == kTileRows) {
      scan.Tile(tile);
      tile.clear();
    }
  }
  scan.Tile(tile);
  return scan.Take();
}

std::vector<Ranking> SearchRows(const float* vectors,
                                std::span<const int64_t> rows, int64_t width,
                                std::span<const float> queries, int64_t k) {
  Scan scan(vectors, width, queries, k);
  for (size_t at = 0; at < rows.size(); at += kTileRows) {
    scan.Tile(rows.subspan(
        at, std::min(static_cast<size_t>(kTileRows), rows.size() - at)));
  }
  return scan.Take();
}

}  // namespace motet::retrieve
