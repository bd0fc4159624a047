// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/search.h"

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/math/tensor.h"
#include "proto/error.h"
#include "proto/limits.h"

namespace motet::retrieve {
namespace {

using proto::Invalid;

constexpr std::array<absl::string_view, 3> kModes = {"dense", "bm25", "fusion"};
// Rankings that are fused are at least so long.
constexpr int64_t kFused = 100;

// One request by itself.
class Alone : public DenseSearch {
 public:
  explicit Alone(const QueryEncoder* encoder) : encoder_(encoder) {}
  absl::StatusOr<SearchResult> Find(
      const Index& index, std::span<const std::string> queries, int64_t depth,
      const std::vector<int64_t>* only) const override {
    MOTET_RETURN_IF_ERROR(index.CheckBase(encoder_->base()));
    MOTET_ASSIGN_OR_RETURN(QueryEncoder::Queries encoded,
                           encoder_->Encode(queries));
    SearchResult result;
    MOTET_ASSIGN_OR_RETURN(
        result.rankings,
        index.SearchVectors(encoded.vectors.values, depth, only));
    result.experts = std::move(encoded.experts);
    result.cut = encoded.vectors.cut;
    for (const int32_t tokens : encoded.vectors.tokens) {
      result.tokens += std::min<int64_t>(tokens, encoder_->base().max_tokens());
    }
    return result;
  }

 private:
  const QueryEncoder* encoder_;
};

absl::StatusOr<std::vector<Ranking>> RankWords(
    const Index& index, std::span<const std::string> queries, int64_t depth,
    const std::vector<int64_t>* only) {
  std::vector<Ranking> rankings;
  for (const std::string& query : queries) {
    MOTET_ASSIGN_OR_RETURN(rankings.emplace_back(),
                           index.SearchText(query, depth, only));
  }
  return rankings;
}

absl::Status Check(const SearchRequest& request) {
  if (request.k < 1 || request.k > proto::kMaxListPage) {
    return Invalid("search", absl::StrCat("k ", request.k),
                   absl::StrCat("1 to ", proto::kMaxListPage));
  }
  if (request.queries.empty()) return Invalid("search", "no query", "one");
  for (const std::string& query : request.queries) {
    if (absl::StripAsciiWhitespace(query).empty()) {
      return Invalid("search", "a query without text", "text");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SearchMode> ParseSearchMode(absl::string_view name) {
  for (size_t i = 0; i < kModes.size(); ++i) {
    if (name == kModes[i]) return static_cast<SearchMode>(i);
  }
  return Invalid("search mode", absl::StrCat("\"", name, "\""),
                 absl::StrCat("one of ", absl::StrJoin(kModes, ", ")));
}

absl::StatusOr<std::vector<Ranking>> DenseSearch::FindWords(
    const Index& index, std::span<const std::string> queries, int64_t depth,
    const std::vector<int64_t>* only) const {
  return RankWords(index, queries, depth, only);
}

absl::StatusOr<SearchResult> Search(const Index& index,
                                    const DenseSearch* dense,
                                    const SearchRequest& request) {
  MOTET_RETURN_IF_ERROR(Check(request));
  std::vector<int64_t> rows;
  const std::vector<int64_t>* only = nullptr;
  if (!request.filters.empty()) {
    MOTET_ASSIGN_OR_RETURN(rows, index.RowsWhere(request.filters));
    only = &rows;
  }
  SearchResult result;
  const bool fused = request.mode == SearchMode::kFusion;
  const int64_t depth = fused ? std::max(request.k, kFused) : request.k;
  if (request.mode != SearchMode::kBm25) {
    MOTET_CHECK(dense != nullptr);
    MOTET_ASSIGN_OR_RETURN(result,
                           dense->Find(index, request.queries, depth, only));
    if (!fused) return result;
  }
  MOTET_ASSIGN_OR_RETURN(
      std::vector<Ranking> words,
      dense == nullptr ? RankWords(index, request.queries, depth, only)
                       : dense->FindWords(index, request.queries, depth, only));
  if (!fused) {
    result.rankings = std::move(words);
    return result;
  }
  for (size_t q = 0; q < request.queries.size(); ++q) {
    result.rankings[q] = Fuse(
        std::vector<Ranking>{result.rankings[q], std::move(words[q])},
        request.k);
  }
  return result;
}

absl::StatusOr<SearchResult> Search(const Index& index,
                                    const QueryEncoder* encoder,
                                    const SearchRequest& request) {
  if (encoder == nullptr) {
    return Search(index, static_cast<const DenseSearch*>(nullptr), request);
  }
  const Alone alone(encoder);
  return Search(index, &alone, request);
}

}  // namespace motet::retrieve
