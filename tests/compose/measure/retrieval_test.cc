// SPDX-License-Identifier: Apache-2.0
// Retrieval metrics worked out by hand, the run file, and BM25's figures on
// the shared sets.
#include "compose/measure/retrieval.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "compose/retrieve/bm25.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace motet::measure {
namespace {

RankedQuery Ranked(const std::string& query,
                   const std::vector<std::string>& documents) {
  RankedQuery ranked{query, {}};
  double score = 100;
  for (const std::string& id : documents) {
    ranked.documents.push_back({id, score--});
  }
  return ranked;
}

TEST(ScoreQuery, IsGradedDiscountedAndCut) {
  // Gains 2 at rank 2 and 1 at rank 3; the best order has 2, 1, 1.
  const QueryScore score =
      ScoreQuery(Ranked("q", {"x", "a", "b", "y"}),
                 {{"a", 2}, {"b", 1}, {"c", 1}, {"x", 0}, {"y", -1}});
  const double log3 = std::log2(3.0);
  EXPECT_NEAR(score.ndcg_10, (2 / log3 + 0.5) / (2 + 1 / log3 + 0.5), 1e-12);
  EXPECT_DOUBLE_EQ(score.mrr_10, 0.5);
  EXPECT_NEAR(score.recall_100, 2.0 / 3, 1e-12);

  std::vector<std::string> many;
  for (int i = 0; i < 101; ++i) many.push_back(std::to_string(i));
  const QueryScore late =
      ScoreQuery(Ranked("q", many), {{"10", 1}, {"99", 1}, {"100", 1}});
  EXPECT_EQ(late.ndcg_10, 0);
  EXPECT_EQ(late.mrr_10, 0);
  EXPECT_NEAR(late.recall_100, 2.0 / 3, 1e-12);
}

TEST(ScoreRetrieval, IsTheMeanOverQueriesWithSomethingToFind) {
  const RetrievalScore score = ScoreRetrieval(
      {Ranked("found", {"a"}), Ranked("unjudged", {"a"})},
      {{"found", {{"a", 1}}}, {"absent", {{"a", 1}}}, {"none", {{"a", 0}}}});
  EXPECT_EQ(score.queries.size(), 2u);
  EXPECT_DOUBLE_EQ(score.ndcg_10, 0.5);
  EXPECT_DOUBLE_EQ(score.mrr_10, 0.5);
  EXPECT_DOUBLE_EQ(score.recall_100, 0.5);
  EXPECT_EQ(ScoreRetrieval({}, {}).ndcg_10, 0);
}

TEST(TrecRun, KeepsTheOrderWhereScoresAreEqual) {
  const RankedQuery ranked = {"q", {{"a", 1}, {"b", 1}, {"c", 1 - 1e-12}}};
  EXPECT_EQ(TrecRun({ranked}, "t"),
            "q Q0 a 1 1 t\nq Q0 b 2 0.99999994 t\nq Q0 c 3 0.999999881 t\n");
}

// The folder that holds the shared retrieval sets, "" where there is none:
// MOTET_SHARED's, or that of the nearest folder above with a shared/ in it.
std::string SharedSets() {
  namespace fs = std::filesystem;
  const auto sets = [](const fs::path& shared) {
    const fs::path folder = shared / "data" / "retrieval";
    return fs::is_directory(folder) ? folder.string() : std::string();
  };
  if (const char* shared = std::getenv("MOTET_SHARED")) return sets(shared);
  for (fs::path at = fs::current_path();; at = at.parent_path()) {
    const std::string found = sets(at / "shared");
    if (!found.empty() || at == at.root_path()) return found;
  }
}

class Bm25Figures
    : public ::testing::TestWithParam<std::pair<const char*, double>> {};

TEST_P(Bm25Figures, AreThePublishedOnes) {
  if (SharedSets().empty()) {
    GTEST_SKIP() << "no retrieval sets: set MOTET_SHARED to the folder with "
                    "data/retrieval";
  }
  const auto [name, want] = GetParam();
  const auto set = retrieve::ReadBeir(SharedSets() + "/" + name, {});
  ASSERT_TRUE(set.ok()) << set.status();
  retrieve::Bm25 bm25;
  for (const auto& d : set->documents) bm25.Add(retrieve::TextOf(d));
  std::vector<RankedQuery> run;
  for (const auto& q : set->queries) {
    run.push_back({q.id, {}});
    for (const auto& hit : bm25.Search(q.text, 100)) {
      run.back().documents.push_back({set->documents[hit.row].id, hit.score});
    }
  }
  EXPECT_NEAR(ScoreRetrieval(run, set->judgements).ndcg_10, want, 0.003);
}

INSTANTIATE_TEST_SUITE_P(
    Sets, Bm25Figures,
    ::testing::Values(std::pair{"scifact", 0.6611},
                      std::pair{"dccode_law", 0.5506},
                      std::pair{"thealgorithms_code", 0.4578},
                      std::pair{"medquad_health", 0.3962}),
    [](const auto& info) { return std::string(info.param.first); });

}  // namespace
}  // namespace motet::measure
