// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/bm25.h"

#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"

namespace motet::retrieve {
namespace {

constexpr double kK1 = 0.9, kB = 0.4;

}  // namespace

std::vector<std::string> TermsOf(absl::string_view text) {
  std::vector<std::string> terms;
  std::string term;
  for (char c : text) {
    const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
    if (absl::ascii_isalnum(static_cast<unsigned char>(lower))) {
      term.push_back(lower);
    } else if (!term.empty()) {
      terms.push_back(std::exchange(term, {}));
    }
  }
  if (!term.empty()) terms.push_back(std::move(term));
  return terms;
}

absl::StatusOr<Ranking> SearchBm25(absl::string_view query, int64_t k,
                                   const Bm25Collection& collection,
                                   const PostingsOf& postings) {
  // Ordered, so that sums are added in one order.
  std::map<std::string, int> counts;
  for (std::string& term : TermsOf(query)) ++counts[std::move(term)];
  const auto documents = static_cast<double>(collection.documents);
  const double mean = static_cast<double>(collection.terms) / documents;
  absl::flat_hash_map<int64_t, double> scores;
  for (const auto& [term, count] : counts) {
    auto found = postings(term);
    if (!found.ok()) return found.status();
    const auto n = static_cast<double>(found->size());
    const double weight =
        count * std::log(1 + (documents - n + 0.5) / (n + 0.5));
    for (const Posting& posting : *found) {
      if (collection.allowed && !collection.allowed(posting.row)) continue;
      const double f = posting.count;
      const double length =
          collection.lengths[static_cast<size_t>(posting.row)];
      scores[posting.row] +=
          weight * f * (kK1 + 1) / (f + kK1 * (1 - kB + kB * length / mean));
    }
  }
  TopHits top(k);
  for (const auto& [row, score] : scores) top.Add(row, score);
  return top.Take();
}

void Bm25::Add(absl::string_view text) {
  const auto row = static_cast<int64_t>(lengths_.size());
  std::map<std::string, int32_t> counts;
  int32_t length = 0;
  for (std::string& term : TermsOf(text)) {
    ++counts[std::move(term)];
    ++length;
  }
  for (const auto& [term, count] : counts) {
    postings_[term].push_back({row, count});
  }
  lengths_.push_back(length);
  terms_ += length;
}

Ranking Bm25::Search(absl::string_view query, int64_t k) const {
  const Bm25Collection collection = {static_cast<int64_t>(lengths_.size()),
                                     terms_, lengths_, nullptr};
  // Nothing here can fail.
  return *SearchBm25(
      query, k, collection,
      [&](const std::string& term) -> absl::StatusOr<std::vector<Posting>> {
        const auto found = postings_.find(term);
        if (found == postings_.end()) {
          return std::vector<Posting>();
        }
        return found->second;
      });
}

}  // namespace motet::retrieve
