// SPDX-License-Identifier: Apache-2.0
// Grouping, the owner's floor, noise, ties, and routing by every similarity
// and aggregate.
#include "compose/retrieve/pilots.h"

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace motet::retrieve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Four queries of two numbers; the third is a tie, which the first wins.
const std::vector<double> kScores = {0.5, 0.1, 0.0,  //
                                     0.2, 0.9, 0.3,  //
                                     0.7, 0.0, 0.7,  //
                                     0.0, 0.0, 0.0};
const std::vector<float> kVectors = {1, 2, 10, 20, 3, 4, 5, 0};

TEST(MakePilots, GroupsByTheBestAndTiesToTheFirst) {
  const MadePilots made =
      MakePilots(kScores, kVectors, 3, 2, {.min_queries = 1});
  ASSERT_THAT(made.groups, SizeIs(2));
  EXPECT_EQ(made.groups[0].expert, 0);
  EXPECT_EQ(made.groups[0].queries, 3);
  EXPECT_THAT(made.groups[0].mean, ElementsAre(3, 2));
  EXPECT_EQ(made.groups[1].expert, 1);
  EXPECT_EQ(made.groups[1].queries, 1);
  EXPECT_THAT(made.groups[1].mean, ElementsAre(10, 20));
  EXPECT_EQ(made.withheld, 0);
  EXPECT_EQ(made.scorings, 12);
}

TEST(MakePilots, TiesToTheOwnersExpertWhereItIsPartOfThem) {
  const auto made =
      MakePilots(kScores, kVectors, 3, 2, {.min_queries = 1, .own = 2});
  ASSERT_THAT(made.groups, SizeIs(3));
  EXPECT_EQ(made.groups[0].queries, 1);  // clearly best
  EXPECT_EQ(made.groups[2].expert, 2);
  EXPECT_EQ(made.groups[2].queries, 2);
  EXPECT_THAT(made.groups[2].mean, ElementsAre(4, 2));
  // Third in one tie only, that of all zeros.
  const auto other =
      MakePilots(kScores, kVectors, 3, 2, {.min_queries = 1, .own = 1});
  EXPECT_EQ(other.groups[0].queries, 2);
  EXPECT_EQ(other.groups[1].queries, 2);
}

TEST(MakePilots, TheFloorWithholdsAndCounts) {
  const MadePilots made =
      MakePilots(kScores, kVectors, 3, 2, {.min_queries = 3});
  ASSERT_THAT(made.groups, SizeIs(1));  // exactly at the floor
  EXPECT_EQ(made.groups[0].expert, 0);
  EXPECT_EQ(made.withheld, 1);
  const MadePilots none =
      MakePilots(kScores, kVectors, 3, 2, {.min_queries = 4});
  EXPECT_THAT(none.groups, IsEmpty());
  EXPECT_EQ(none.withheld, 2);
  EXPECT_EQ(MakePilots({}, {}, 3, 2, {}).scorings, 0);
}

TEST(MakePilots, NoiseIsOfItsSizeAndSeed) {
  const int64_t width = 4000;
  const std::vector<float> vectors(width, 1);
  const std::vector<double> scores = {1};
  const auto make = [&](double noise, uint64_t seed) {
    return MakePilots(scores, vectors, 1, width,
                      {.min_queries = 1, .noise = noise, .seed = seed})
        .groups[0]
        .mean;
  };
  EXPECT_EQ(make(0.1, 1), make(0.1, 1));
  EXPECT_NE(make(0.1, 1), make(0.1, 2));
  EXPECT_EQ(make(0, 1), vectors);
  double square = 0;
  for (const float x : make(0.1, 1)) square += (x - 1.0) * (x - 1.0);
  EXPECT_NEAR(std::sqrt(square / width), 0.1, 0.01);
}

TEST(SetGates, KeepsOutTheShareThatIsFarthest) {
  // Ten queries of group 0 at growing angles to x, one of group 1.
  std::vector<double> scores;
  std::vector<float> vectors;
  for (int q = 0; q < 10; ++q) {
    scores.insert(scores.end(), {1, 0});
    const double angle = 0.1 * q;
    vectors.push_back(static_cast<float>(3 * std::cos(angle)));
    vectors.push_back(static_cast<float>(3 * std::sin(angle)));
  }
  scores.insert(scores.end(), {0, 1});
  vectors.insert(vectors.end(), {0, -7});
  MadePilots made = MakePilots(scores, vectors, 2, 2, {.min_queries = 1});
  ASSERT_THAT(made.groups, SizeIs(2));
  made.groups[0].mean = {5, 0};  // as with noise: gates are of what leaves
  for (const auto& [share, angle] :
       {std::pair{0.0, 0.9}, {0.1, 0.8}, {0.15, 0.8}, {0.5, 0.4}}) {
    SetGates(scores, vectors, 2, 2, -1, share, made);
    EXPECT_NEAR(made.groups[0].gate, std::cos(angle), 1e-6) << share;
    EXPECT_NEAR(made.groups[1].gate, 1, 1e-6);
  }
  made.groups[0].mean = {0, 0};
  SetGates(scores, vectors, 2, 2, -1, 0.1, made);
  EXPECT_EQ(made.groups[0].gate, 0);
}

TEST(PilotRouter, AGateLetsInWhatIsNear) {
  const std::vector<float> pilots = {2, 0, 0, 1};
  const std::vector<int> experts = {4, 6};
  const std::vector<double> gates = {0.9, 0.99};
  const std::vector<float> queries = {5,  1,    // 0.98 to the first
                                      1,  5,    // 0.98 to the second: too far
                                      -1, 20,   // 0.999
                                      0,  0};
  for (const auto similarity : {Similarity::kDot, Similarity::kCosine}) {
    const PilotRouter router(pilots, experts, 2, similarity, Aggregate::kMean,
                             {}, gates);
    EXPECT_THAT(router.Route(queries), ElementsAre(4, -1, 6, -1));
    // Without the second pilot nothing more is let in.
    EXPECT_THAT(PilotRouter({2, 0}, {4}, 2, similarity, Aggregate::kMean, {},
                            {0.9})
                    .Route(queries),
                ElementsAre(4, -1, -1, -1));
  }
}

std::vector<int> Route(const std::vector<float>& pilots,
                       const std::vector<int>& experts,
                       const std::vector<float>& queries,
                       Similarity similarity = Similarity::kDot,
                       Aggregate aggregate = Aggregate::kMean) {
  return PilotRouter(pilots, experts, 2, similarity, aggregate).Route(queries);
}

TEST(PilotRouter, MeanAndMaxDiffer) {
  // Expert 1 has one near pilot and one far; expert 2 two that are so-so.
  const std::vector<float> pilots = {4, 0, -4, 0, 1, 0, 1, 0};
  const std::vector<int> experts = {1, 1, 2, 2};
  EXPECT_THAT(Route(pilots, experts, {1, 0}), ElementsAre(2));
  EXPECT_THAT(Route(pilots, experts, {1, 0}, Similarity::kDot, Aggregate::kMax),
              ElementsAre(1));
  // All below 0: the maximum is of what is there.
  EXPECT_THAT(
      Route({-3, 0, -2, 0}, {1, 2}, {1, 0}, Similarity::kDot, Aggregate::kMax),
      ElementsAre(2));
}

TEST(PilotRouter, WeighsAPilotByItsQueries) {
  // Expert 1 won 30 queries far away by luck and has its 90 here; expert 2
  // won 30 here.
  const std::vector<float> pilots = {1, 0, -1, 0, 0.9f, 0};
  const std::vector<int> experts = {1, 1, 2};
  const std::vector<float> query = {1, 0};
  const PilotRouter router(pilots, experts, 2, Similarity::kDot,
                           Aggregate::kWeighted, {90, 30, 30});
  const auto scores = router.Scores(query);
  ASSERT_THAT(scores, SizeIs(2));
  EXPECT_DOUBLE_EQ(scores[0].score, 0.5);  // (90 - 30) / 120
  EXPECT_FLOAT_EQ(scores[1].score, 0.9);
  EXPECT_THAT(PilotRouter(pilots, experts, 2, Similarity::kDot,
                          Aggregate::kWeighted, {900, 20, 30})
                  .Route(query),
              ElementsAre(1));
}

TEST(PilotRouter, DotKnowsLengthsAndCosineDoesNot) {
  const std::vector<float> pilots = {10, 10, 1, 0};
  EXPECT_THAT(Route(pilots, {3, 5}, {1, 0}), ElementsAre(3));
  EXPECT_THAT(Route(pilots, {3, 5}, {1, 0}, Similarity::kCosine),
              ElementsAre(5));
  const PilotRouter router({3, 4, 0, 0}, {0, 1}, 2, Similarity::kCosine,
                           Aggregate::kMean);
  const std::vector<float> query = {6, 8};
  const auto scores = router.Scores(query);
  ASSERT_THAT(scores, SizeIs(2));
  EXPECT_NEAR(scores[0].score, 1, 1e-6);
  EXPECT_EQ(scores[1].score, 0);  // of no length
}

TEST(PilotRouter, TiesToTheLowestWhateverTheOrderOfPilots) {
  EXPECT_THAT(Route({1, 0, 1, 0}, {7, 2}, {1, 1}), ElementsAre(2));
  EXPECT_THAT(Route({0, 1, 1, 0}, {2, 7}, {0, 0}), ElementsAre(2));
}

TEST(PilotRouter, ManyQueriesEachByItselfAndNoPilotsNobody) {
  EXPECT_THAT(Route({1, 0, 0, 1}, {0, 1}, {1, 0, 0, 1, 3, 2}),
              ElementsAre(0, 1, 0));
  EXPECT_THAT(Route({}, {}, {1, 0, 0, 1}), ElementsAre(-1, -1));
}

}  // namespace
}  // namespace motet::retrieve
