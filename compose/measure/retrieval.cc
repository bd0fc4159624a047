// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/retrieval.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace motet::measure {
namespace {

constexpr size_t kRanks = 10, kRecallRanks = 100;

double Discounted(int gain, size_t rank) {  // rank from 1
  return gain / std::log2(static_cast<double>(rank + 1));
}

}  // namespace

QueryScore ScoreQuery(const RankedQuery& ranked,
                      const std::map<std::string, int>& judgements) {
  QueryScore score;
  score.query = ranked.query;
  std::vector<int> gains;  // of the relevant
  for (const auto& [document, gain] : judgements) {
    if (gain > 0) gains.push_back(gain);
  }
  std::sort(gains.begin(), gains.end(), std::greater<>());
  double best = 0;
  for (size_t i = 0; i < std::min(gains.size(), kRanks); ++i) {
    best += Discounted(gains[i], i + 1);
  }
  if (gains.empty()) return score;
  double sum = 0;
  int64_t found = 0;
  const size_t ranks = std::min(ranked.documents.size(), kRecallRanks);
  for (size_t i = 0; i < ranks; ++i) {
    const auto judged = judgements.find(ranked.documents[i].id);
    if (judged == judgements.end() || judged->second <= 0) continue;
    ++found;
    if (i >= kRanks) continue;
    sum += Discounted(judged->second, i + 1);
    if (score.mrr_10 == 0) score.mrr_10 = 1 / static_cast<double>(i + 1);
  }
  score.ndcg_10 = sum / best;
  score.recall_100 =
      static_cast<double>(found) / static_cast<double>(gains.size());
  return score;
}

RetrievalScore ScoreRetrieval(const std::vector<RankedQuery>& run,
                              const retrieve::Judgements& judgements) {
  std::unordered_map<std::string, const RankedQuery*> ranked;
  for (const RankedQuery& query : run) ranked[query.query] = &query;
  RetrievalScore score;
  for (const auto& [query, judged] : judgements) {
    const bool relevant =
        std::any_of(judged.begin(), judged.end(),
                    [](const auto& j) { return j.second > 0; });
    if (!relevant) continue;
    const auto found = ranked.find(query);
    score.queries.push_back(ScoreQuery(
        found == ranked.end() ? RankedQuery{query, {}} : *found->second,
        judged));
    score.ndcg_10 += score.queries.back().ndcg_10;
    score.mrr_10 += score.queries.back().mrr_10;
    score.recall_100 += score.queries.back().recall_100;
  }
  if (score.queries.empty()) return score;
  const auto n = static_cast<double>(score.queries.size());
  score.ndcg_10 /= n;
  score.mrr_10 /= n;
  score.recall_100 /= n;
  return score;
}

std::string TrecRun(const std::vector<RankedQuery>& run,
                    absl::string_view tag) {
  std::string out;
  for (const RankedQuery& query : run) {
    float above = std::numeric_limits<float>::infinity();
    for (size_t i = 0; i < query.documents.size(); ++i) {
      const RankedDocument& document = query.documents[i];
      const float score = std::min(
          static_cast<float>(document.score),
          std::nextafter(above, -std::numeric_limits<float>::infinity()));
      above = score;
      absl::StrAppendFormat(&out, "%s Q0 %s %d %.9g %s\n", query.query,
                            document.id, i + 1, score, tag);
    }
  }
  return out;
}

}  // namespace motet::measure
