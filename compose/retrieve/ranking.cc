// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/ranking.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace motet::retrieve {

void TopHits::Add(int64_t row, double score) {
  const Hit hit{row, score};
  if (static_cast<int64_t>(heap_.size()) < k_) {
    heap_.push_back(hit);
    std::push_heap(heap_.begin(), heap_.end(), Better);
  } else if (k_ > 0 && Better(hit, heap_.front())) {
    std::pop_heap(heap_.begin(), heap_.end(), Better);
    heap_.back() = hit;
    std::push_heap(heap_.begin(), heap_.end(), Better);
  }
}

Ranking TopHits::Take() {
  std::sort_heap(heap_.begin(), heap_.end(), Better);
  return std::exchange(heap_, {});
}

Ranking Fuse(std::span<const Ranking> rankings, int64_t k) {
  constexpr double kOffset = 60;
  absl::flat_hash_map<int64_t, double> scores;
  for (const Ranking& ranking : rankings) {
    for (size_t i = 0; i < ranking.size(); ++i) {
      scores[ranking[i].row] += 1 / (kOffset + static_cast<double>(i + 1));
    }
  }
  TopHits top(k);
  for (const auto& [row, score] : scores) top.Add(row, score);
  return top.Take();
}

}  // namespace motet::retrieve
