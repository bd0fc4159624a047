// SPDX-License-Identifier: Apache-2.0
// Rankings: rows of a collection with scores, best first. Equal scores go to
// the lower row, so that a ranking is one, whatever found it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace motet::retrieve {

struct Hit {
  int64_t row = 0;  // of a document, in the order of adding
  double score = 0;
  bool operator==(const Hit&) const = default;
};
using Ranking = std::vector<Hit>;

inline bool Better(const Hit& a, const Hit& b) {
  return a.score != b.score ? a.score > b.score : a.row < b.row;
}

// Keeps the best k of what it is given, in any order.
class TopHits {
 public:
  explicit TopHits(int64_t k) : k_(k) {}
  void Add(int64_t row, double score);
  // Best first; empties it.
  Ranking Take();

 private:
  int64_t k_;
  std::vector<Hit> heap_;  // the worst in front
};

// Reciprocal-rank fusion: score = sum over rankings of 1 / (60 + rank), ranks
// from 1; a row that a ranking has not gets nothing from it.   [Cormack 2009]
Ranking Fuse(std::span<const Ranking> rankings, int64_t k);

}  // namespace motet::retrieve
