// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/query_scores.h"

#include <string>

#include "compose/measure/retrieval.h"
#include "compose/retrieve/flat.h"
#include "proto/error.h"

namespace motet::measure {
namespace {

constexpr int64_t kRanks = 10;

}  // namespace

absl::StatusOr<std::vector<double>> QueryScores(
    const retrieve::TextEncoder& base, const model::Lora* lora,
    const retrieve::BeirSet& set, std::span<const float> documents) {
  std::vector<std::string> texts;
  for (const retrieve::Query& q : set.queries) texts.push_back(q.text);
  MOTET_ASSIGN_OR_RETURN(const retrieve::Vectors queries,
                         base.Encode(texts, lora));
  const std::vector<retrieve::Ranking> rankings = retrieve::SearchFlat(
      documents.data(), 0, static_cast<int64_t>(set.documents.size()),
      base.width(), queries.values, kRanks, [&](int64_t row) {
        return !retrieve::IsEmpty(set.documents[static_cast<size_t>(row)]);
      });
  std::vector<double> scores;
  for (size_t q = 0; q < rankings.size(); ++q) {
    RankedQuery ranked;
    ranked.query = set.queries[q].id;
    for (const retrieve::Hit& hit : rankings[q]) {
      ranked.documents.push_back(
          {set.documents[static_cast<size_t>(hit.row)].id, hit.score});
    }
    const auto judged = set.judgements.find(ranked.query);
    scores.push_back(judged == set.judgements.end()
                         ? 0
                         : ScoreQuery(ranked, judged->second).ndcg_10);
  }
  return scores;
}

}  // namespace motet::measure
