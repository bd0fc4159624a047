// SPDX-License-Identifier: Apache-2.0
// How good rankings are: nDCG@10, MRR@10 and recall@100 against judgements,
// as trec_eval counts them, in the order that the rankings have; and the run
// file that other programs read.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "compose/retrieve/beir.h"

namespace motet::measure {

struct RankedDocument {
  std::string id;
  double score = 0;
};
struct RankedQuery {
  std::string query;                      // id
  std::vector<RankedDocument> documents;  // best first, each once
};

struct QueryScore {
  std::string query;
  double ndcg_10 = 0, mrr_10 = 0, recall_100 = 0;
};
struct RetrievalScore {
  double ndcg_10 = 0, mrr_10 = 0, recall_100 = 0;  // means over the queries
  std::vector<QueryScore> queries;                 // in the order of their ids
};

// One query. gains: a judgement's score, not below 0, is the gain of its
// document; an unjudged one has none. Relevant: above 0.
//   nDCG = sum_i gain_i / log2(i + 1), over that of the best order
QueryScore ScoreQuery(const RankedQuery& ranked,
                      const std::map<std::string, int>& judgements);
// Every query with a relevant document counts; one without a ranking scores 0.
RetrievalScore ScoreRetrieval(const std::vector<RankedQuery>& run,
                              const retrieve::Judgements& judgements);

// "query Q0 document rank score tag", a line each. Readers order by a score
// that they hold in 32 bits: scores that would be equal there, or turn, are
// written a step lower, so that every reader sees this order.
std::string TrecRun(const std::vector<RankedQuery>& run, absl::string_view tag);

}  // namespace motet::measure
