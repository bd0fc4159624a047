// SPDX-License-Identifier: Apache-2.0
// BM25, k1 0.9 and b 0.4, over lower-cased runs of [a-z0-9], no stemming and
// no stop words. The arithmetic stands here once: for postings in memory
// (Bm25), and for those of an index (index.h).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "compose/retrieve/ranking.h"

namespace motet::retrieve {

// Letters and digits outside ASCII end a term.
std::vector<std::string> TermsOf(absl::string_view text);

struct Posting {
  int64_t row = 0;
  int32_t count = 0;  // of the term in the document
};
struct Bm25Collection {
  int64_t documents = 0;             // N
  int64_t terms = 0;                 // of all documents together
  std::span<const int32_t> lengths;  // by row, in terms; dead rows may be there
  std::function<bool(int64_t)> allowed;  // of what may be ranked; null: all
};
// Of the documents that count, rows ascending.
using PostingsOf = std::function<absl::StatusOr<std::vector<Posting>>(
    const std::string& term)>;
// The best k of those that hold a term of the query; a term that stands twice
// in it counts twice.
//   sum_t ln(1 + (N - n_t + 0.5) / (n_t + 0.5))
//         f (k1 + 1) / (f + k1 (1 - b + b length / mean length))
absl::StatusOr<Ranking> SearchBm25(absl::string_view query, int64_t k,
                                   const Bm25Collection& collection,
                                   const PostingsOf& postings);

// In memory.
class Bm25 {
 public:
  // The next row's.
  void Add(absl::string_view text);
  Ranking Search(absl::string_view query, int64_t k) const;

 private:
  absl::flat_hash_map<std::string, std::vector<Posting>> postings_;
  std::vector<int32_t> lengths_;
  int64_t terms_ = 0;
};

}  // namespace motet::retrieve
