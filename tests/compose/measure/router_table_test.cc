// SPDX-License-Identifier: Apache-2.0
// The table of routers on numbers small enough to work out by hand: two
// owners, whose queries lie along two axes.
#include "compose/measure/router_table.h"

#include <algorithm>
#include <cmath>

#include "compose/measure/kmeans.h"
#include "compose/measure/softmax_classifier.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace motet::measure {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Scores a query: base, expert 0, expert 1, one adapter on all data.
void Add(RoutedQueries& queries, float x, float y, double base, double first,
         double second) {
  queries.vectors.insert(queries.vectors.end(), {x, y});
  queries.scores.insert(queries.scores.end(), {base, first, second, 0.5});
}

// Owner "a" along x, owner "b" along y; one in four of b's queries lies
// along x and is answered best by a's expert.
std::vector<RoutedSet> Sets() {
  std::vector<RoutedSet> sets(3);
  sets[0] = {"a", 0, {}, {}, 0.1};
  sets[1] = {"b", 1, {}, {}, 0.2};
  sets[2] = {"new", -1, {}, {}, 0.3};
  for (int i = 0; i < 4; ++i) {
    Add(sets[0].train, 1, 0, 0.2, 0.9, 0.9);  // a tie: the owner's own
    Add(sets[0].test, 1, 0, 0.4, 0.8, 0.1);
    if (i < 3) {
      Add(sets[1].train, 0, 1, 0.2, 0.3, 0.9);
      Add(sets[1].test, 0, 1, 0.4, 0.2, 1);
    } else {
      Add(sets[1].train, 1, 0.1f, 0.2, 0.6, 0.5);
      Add(sets[1].test, 1, 0.1f, 0.4, 0.6, 0);
    }
    Add(sets[2].test, 0.9f, 0.2f, 0.5, 0.7, 0.3);
  }
  return sets;
}
RouterTable Made() {
  RouterTableOptions options;
  options.pilots.min_queries = 1;
  options.clusters = 2;
  return MakeRouterTable(Sets(), {"a", "b"}, {"one for all"}, 2, options);
}
const RouterRow& Row(const RouterTable& table, const std::string& name) {
  for (const RouterRow& row : table.rows) {
    if (row.name == name) return row;
  }
  ADD_FAILURE() << "no row " << name;
  return table.rows[0];
}

TEST(RouterTable, EncodersAnswerEverything) {
  const RouterTable table = Made();
  EXPECT_THAT(Row(table, "BM25").values, ElementsAre(0.1, 0.2, 0.3));
  EXPECT_THAT(Row(table, "base").values, ElementsAre(0.4, 0.4, 0.5));
  EXPECT_THAT(Row(table, "one for all").values, ElementsAre(0.5, 0.5, 0.5));
  const RouterRow& a = Row(table, "expert a");
  EXPECT_DOUBLE_EQ(a.values[0], 0.8);
  EXPECT_DOUBLE_EQ(a.values[1], (3 * 0.2 + 0.6) / 4);
  // Withdrawn, it answers nothing of its own; others' sets keep it.
  EXPECT_TRUE(std::isnan(a.without[0]));
  EXPECT_DOUBLE_EQ(a.without[1], a.values[1]);
  EXPECT_TRUE(std::isnan(a.without[2]));  // nobody's set
  // What all data made would have to be made again.
  EXPECT_TRUE(std::isnan(Row(table, "one for all").without[0]));
}

TEST(RouterTable, RoutersSendEachQueryToItsExpert) {
  const RouterTable table = Made();
  for (const char* name :
       {"RouterRetriever, max", "RouterRetriever, weighted",
        "oracle by query"}) {
    const RouterRow& row = Row(table, name);
    EXPECT_DOUBLE_EQ(row.values[0], 0.8) << name;
    EXPECT_DOUBLE_EQ(row.values[1], (3 * 1 + 0.6) / 4) << name;
    EXPECT_THAT(row.went[1], ElementsAre(0, 0.25, 0.75)) << name;
  }
  // By the nearest of all queries, b's own there along x is the nearest.
  const RouterRow& dataset = Row(table, "dataset router");
  EXPECT_DOUBLE_EQ(dataset.values[1], (3 * 1 + 0) / 4.0);
  EXPECT_DOUBLE_EQ(Row(table, "classifier").values[0], 0.8);
  // One encoder for a set: b's is the best for b.
  EXPECT_DOUBLE_EQ(Row(table, "oracle by set").values[1], 3 / 4.0);
}

TEST(RouterTable, AWithdrawnExpertLeavesWithItsOwnersPilots) {
  const RouterTable table = Made();
  for (const char* name :
       {"RouterRetriever, mean", "RouterRetriever, max",
        "RouterRetriever, weighted", "dataset router",
        "classifier", "oracle by set", "oracle by query"}) {
    const RouterRow& row = Row(table, name);
    EXPECT_DOUBLE_EQ(row.without[0], 0.1) << name;  // expert b on a's queries
    EXPECT_DOUBLE_EQ(row.without[1], (3 * 0.2 + 0.6) / 4) << name;
    EXPECT_TRUE(std::isnan(row.without[2])) << name;
  }
}

TEST(RouterTable, TheBaseCanBeACandidate) {
  std::vector<RoutedSet> sets = Sets();
  // The base is best for a's queries.
  for (size_t i = 0; i < sets[0].train.scores.size(); i += 4) {
    sets[0].train.scores[i] = 1;
  }
  RouterTableOptions options;
  options.pilots.min_queries = 1;
  const RouterTable table =
      MakeRouterTable(sets, {"a", "b"}, {"one for all"}, 2, options);
  const RouterRow& row = Row(table, "RouterRetriever, mean, base too");
  EXPECT_THAT(row.went[0], ElementsAre(1, 0, 0));
  EXPECT_DOUBLE_EQ(row.values[0], 0.4);
}

TEST(RouterTable, AGateSendsWhatIsFarToTheBase) {
  std::vector<RoutedSet> sets = Sets();
  const RouterTable plain =
      MakeRouterTable(sets, {"a", "b"}, {"one for all"}, 2,
                      {.pilots = {.min_queries = 1}});
  const RouterRow& row = Row(plain, "RouterRetriever, weighted, gated");
  EXPECT_THAT(row.went[0], ElementsAre(0, 1, 0));
  EXPECT_THAT(row.went[2], ElementsAre(1, 0, 0));  // (0.9, 0.2): nobody's
  EXPECT_DOUBLE_EQ(row.values[2], 0.5);
  // Without a's pilots, its queries are b's odd ones at best.
  EXPECT_DOUBLE_EQ(Row(plain, "RouterRetriever, weighted").without[0], 0.1);
}

TEST(RouterTable, SmallGroupsGiveNoPilot) {
  RouterTableOptions options;
  options.pilots.min_queries = 4;  // b's groups have 3 and 1
  const RouterTable table =
      MakeRouterTable(Sets(), {"a", "b"}, {"one for all"}, 2, options);
  EXPECT_THAT(Row(table, "RouterRetriever, mean").went[1],
              ElementsAre(0, 1, 0));
  // Nobody is left to choose from: the base.
  EXPECT_DOUBLE_EQ(Row(table, "RouterRetriever, mean").without[0], 0.4);
}

TEST(RouterTable, IsWrittenWithoutWhatMeansNothing) {
  const RouterTable table = Made();
  EXPECT_THAT(RouterTableCsv(table),
              HasSubstr("\"expert a\",encoder,a,0.800000,\n"));
  const auto json = nlohmann::json::parse(RouterTableJson(table));
  EXPECT_EQ(json["rows"].size(), table.rows.size());
  EXPECT_TRUE(json["rows"][3]["without"][0].is_null());
}

TEST(KMeans, FindsClustersThatLieApart) {
  const std::vector<float> vectors = {0, 0, 10, 10, 0, 2, 10, 12, 0, 1};
  std::vector<float> means = KMeans(vectors, 2, 2, 1);
  if (means.at(0) > 5) std::rotate(means.begin(), means.begin() + 2, means.end());
  EXPECT_THAT(means, ElementsAre(0, 1, 10, 11));
  // No more clusters than vectors, none of nothing.
  EXPECT_EQ(KMeans(vectors, 2, 9, 1).size(), vectors.size());
  EXPECT_TRUE(KMeans({}, 2, 3, 1).empty());
}

TEST(SoftmaxClassifier, SeparatesByAPlaneThatMissesTheOrigin) {
  const std::vector<float> vectors = {1, 0, 1.2f, 0, 1, 0.1f,
                                      2, 0, 2.2f, 0, 2, 0.1f};
  const SoftmaxClassifier classifier(vectors, std::vector<int>{1, 1, 1, 0, 0, 0},
                                     3, 2);
  EXPECT_EQ(classifier.Classify(std::vector<float>{0.9f, 0}), 1);
  EXPECT_EQ(classifier.Classify(std::vector<float>{2.1f, 0}), 0);
}

}  // namespace
}  // namespace motet::measure
