// SPDX-License-Identifier: Apache-2.0
// One search of an index, as every front asks for it: queries, a mode, how
// many, and filters on metadata. Which encoder a query goes through is the
// QueryEncoder's business.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "compose/retrieve/index.h"

namespace motet::retrieve {

enum class SearchMode : uint8_t { kDense, kBm25, kFusion };
// "dense", "bm25", "fusion"; InvalidArgument lists them.
absl::StatusOr<SearchMode> ParseSearchMode(absl::string_view name);

struct SearchRequest {
  std::vector<std::string> queries;
  SearchMode mode = SearchMode::kDense;
  int64_t k = 10;  // 1 to proto::kMaxListPage; fewer come where fewer are
  // field = value, all of them.
  std::vector<std::pair<std::string, std::string>> filters;
};
struct SearchResult {
  std::vector<Ranking> rankings;     // one a query
  std::vector<std::string> experts;  // which encoder answered; empty for BM25
  int64_t cut = 0;     // queries beyond the encoder's limit of tokens
  int64_t tokens = 0;  // that were encoded
};

// Ranks rows by their vectors, and says who encoded the queries, or by words:
// where a server puts the work of many requests together.
class DenseSearch {
 public:
  virtual ~DenseSearch() = default;
  // The `depth` best rows for each query, of all or of `only`.
  virtual absl::StatusOr<SearchResult> Find(
      const Index& index, std::span<const std::string> queries, int64_t depth,
      const std::vector<int64_t>* only) const = 0;
  // The same by their words (BM25), one ranking a query.
  virtual absl::StatusOr<std::vector<Ranking>> FindWords(
      const Index& index, std::span<const std::string> queries, int64_t depth,
      const std::vector<int64_t>* only) const;
};
// dense: may be null for kBm25. InvalidArgument: k out of range, an empty
// query, an unknown field. FailedPrecondition: another base.
absl::StatusOr<SearchResult> Search(const Index& index,
                                    const DenseSearch* dense,
                                    const SearchRequest& request);
// This request by itself; encoder: may be null for kBm25.
absl::StatusOr<SearchResult> Search(const Index& index,
                                    const QueryEncoder* encoder,
                                    const SearchRequest& request);

}  // namespace motet::retrieve
