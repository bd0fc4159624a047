// SPDX-License-Identifier: Apache-2.0
// BM25, fusion and the exact search on cases small enough to be worked out by
// hand.
#include "compose/retrieve/ranking.h"

#include <cmath>
#include <random>

#include "compose/retrieve/bm25.h"
#include "compose/retrieve/flat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace motet::retrieve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int64_t> Rows(const Ranking& ranking) {
  std::vector<int64_t> rows;
  for (const Hit& hit : ranking) rows.push_back(hit.row);
  return rows;
}

TEST(Terms, AreRunsOfLettersAndDigits) {
  EXPECT_THAT(TermsOf("The 2nd B_c, \xC3\x89t\xC3\xA9!x"),
              ElementsAre("the", "2nd", "b", "c", "t", "x"));
  EXPECT_THAT(TermsOf(" -- "), IsEmpty());
}

TEST(TopHits, KeepsTheBestAndTiesGoToTheLowerRow) {
  TopHits top(3);
  for (int64_t row : {4, 0, 3, 1, 2}) top.Add(row, row == 3 ? 2.0 : 1.0);
  EXPECT_THAT(top.Take(), ElementsAre(Hit{3, 2}, Hit{0, 1}, Hit{1, 1}));
  TopHits none(0);
  none.Add(1, 1);
  EXPECT_THAT(none.Take(), IsEmpty());
}

// Documents of 4, 2 and 6 terms: mean 4.
Bm25 Three() {
  Bm25 bm25;
  bm25.Add("salt salt sea water");
  bm25.Add("river water");
  bm25.Add("a b c d e water");
  return bm25;
}

TEST(Bm25, IsTheFormula) {
  const Ranking salt = Three().Search("SALT", 10);
  ASSERT_EQ(salt.size(), 1u);
  // n 1 of N 3; f 2, length = mean: f (k1 + 1) / (f + k1) = 3.8 / 2.9.
  EXPECT_NEAR(salt[0].score, std::log(1 + 2.5 / 1.5) * 3.8 / 2.9, 1e-12);
  const Ranking water = Three().Search("water!", 10);
  EXPECT_THAT(Rows(water), ElementsAre(1, 0, 2));  // the shorter first
  // n 3 of N 3; f 1, length 2: 1.9 / (1 + 0.9 (0.6 + 0.4 / 2)) = 1.9 / 1.72.
  EXPECT_NEAR(water[0].score, std::log(1 + 0.5 / 3.5) * 1.9 / 1.72, 1e-12);
  EXPECT_NEAR(water[1].score, std::log(1 + 0.5 / 3.5), 1e-12);
  EXPECT_NEAR(water[2].score, std::log(1 + 0.5 / 3.5) * 1.9 / 2.08, 1e-12);
}

TEST(Bm25, CountsATermOfTheQueryAsOftenAsItStands) {
  const double once = Three().Search("river", 1)[0].score;
  EXPECT_NEAR(Three().Search("river river", 1)[0].score, 2 * once, 1e-12);
  EXPECT_THAT(Three().Search("nothing", 5), IsEmpty());
  EXPECT_THAT(Three().Search("", 5), IsEmpty());
  EXPECT_THAT(Bm25().Search("salt", 5), IsEmpty());
  EXPECT_THAT(Rows(Three().Search("water", 1)), ElementsAre(1));
}

TEST(Fuse, AddsReciprocalRanks) {
  const std::vector<Ranking> rankings = {{{7, 9.0}, {5, 8.0}, {3, 7.0}},
                                         {{3, 0.1}, {5, 0.0}}};
  const Ranking fused = Fuse(rankings, 10);
  // 3: 1/63 + 1/61; 5: 2/62; 7: 1/61.
  EXPECT_THAT(Rows(fused), ElementsAre(3, 5, 7));
  EXPECT_DOUBLE_EQ(fused[0].score, 1.0 / 63 + 1.0 / 61);
  EXPECT_DOUBLE_EQ(fused[1].score, 2.0 / 62);
  EXPECT_THAT(Rows(Fuse(rankings, 1)), ElementsAre(3));
}

TEST(SearchFlat, FindsTheLargestProducts) {
  const std::vector<float> vectors = {1, 0, 0, 1, 0.6f, 0.8f, 0, 1};
  const std::vector<float> queries = {1, 0, 0, 2};
  const auto found = SearchFlat(vectors.data(), 0, 4, 2, queries, 3, nullptr);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_THAT(Rows(found[0]), ElementsAre(0, 2, 1));
  EXPECT_THAT(found[1],
              ElementsAre(Hit{1, 2}, Hit{3, 2}, Hit{2, 2 * double{0.8f}}));
  EXPECT_THAT(SearchFlat(vectors.data(), 0, 0, 2, queries, 3, nullptr)[0],
              IsEmpty());
}

// Nothing moves a bit: other queries, rows left out, where tiles begin.
TEST(SearchFlat, ARowsScoreIsItsOwn) {
  constexpr int64_t kRows = 3000, kWidth = 40;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> vectors(kRows * kWidth), queries(300 * kWidth);
  for (float& v : vectors) v = normal(random);
  for (float& v : queries) v = normal(random);
  const auto all =
      SearchFlat(vectors.data(), 0, kRows, kWidth, queries, kRows, nullptr);
  const auto odd = [](int64_t row) { return row % 2 == 1 || row > 2990; };
  const auto alone =
      SearchFlat(vectors.data(), 7, kRows, kWidth,
                 std::span(queries).subspan(299 * kWidth), kRows, odd);
  Ranking want;
  for (const Hit& hit : all[299]) {
    if (odd(hit.row) && hit.row >= 7) want.push_back(hit);
  }
  EXPECT_EQ(alone[0], want);
  EXPECT_GT(want.size(), 1400u);
}

}  // namespace
}  // namespace motet::retrieve
