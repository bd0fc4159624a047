// SPDX-License-Identifier: Apache-2.0
// Pilots and routing against the fixture methods/pilots: means of the groups,
// scores (1e-5) and choices (exactly), with all experts and without one.
#include <vector>

#include "absl/strings/str_cat.h"
#include "compose/retrieve/pilots.h"
#include "gtest/gtest.h"
#include "tests/golden/fixtures.h"

namespace motet::golden {
namespace {

using retrieve::PilotRouter;

constexpr double kTolerance = 1e-5;

class PilotsGolden : public testing::Test {
 protected:
  void SetUp() override {
    MOTET_GOLDEN_OR_SKIP();
    fixture_ = std::make_unique<Fixture>("methods/pilots");
    ASSERT_TRUE(fixture_->ok());
    width_ = fixture_->ShapeOf("pilots").dim[1];
    // In order of domain, then expert, as every owner publishes them.
    for (int d = 0; fixture_->Has(absl::StrCat("ndcg.", d)); ++d) {
      const auto made = retrieve::MakePilots(
          fixture_->Doubles(absl::StrCat("ndcg.", d)),
          fixture_->Floats(absl::StrCat("embeddings.", d)),
          fixture_->ShapeOf(absl::StrCat("ndcg.", d)).dim[1], width_,
          {.min_queries = 1});
      EXPECT_EQ(made.withheld, 0);
      for (const auto& group : made.groups) {
        pilots_.insert(pilots_.end(), group.mean.begin(), group.mean.end());
        experts_.push_back(group.expert);
      }
    }
  }
  // Without an expert: its pilots are not there.
  PilotRouter Router(int without = -1) const {
    std::vector<float> pilots;
    std::vector<int> experts;
    for (size_t i = 0; i < experts_.size(); ++i) {
      if (experts_[i] == without) continue;
      experts.push_back(experts_[i]);
      pilots.insert(pilots.end(), pilots_.begin() + i * width_,
                    pilots_.begin() + (i + 1) * width_);
    }
    return PilotRouter(pilots, experts, width_, retrieve::Similarity::kDot,
                       retrieve::Aggregate::kMean);
  }
  std::unique_ptr<Fixture> fixture_;
  int64_t width_ = 0;
  std::vector<float> pilots_;
  std::vector<int> experts_;
};

TEST_F(PilotsGolden, MeansOfTheGroups) {
  EXPECT_EQ(experts_, fixture_->Ids("pilot_expert"));
  EXPECT_TRUE(Close(pilots_, fixture_->Doubles("pilots"), kTolerance));
}

TEST_F(PilotsGolden, ScoresAndChoices) {
  const std::vector<float> queries = fixture_->Floats("queries");
  const PilotRouter router = Router();
  std::vector<float> scores;
  for (size_t at = 0; at < queries.size(); at += width_) {
    int expert = 0;
    for (const auto& score :
         router.Scores(std::span(queries).subspan(at, width_))) {
      EXPECT_EQ(score.expert, expert++);
      scores.push_back(static_cast<float>(score.score));
    }
  }
  EXPECT_TRUE(Close(scores, fixture_->Doubles("scores"), kTolerance));
  EXPECT_EQ(router.Route(queries), fixture_->Ids("choice"));
  EXPECT_EQ(Router(1).Route(queries), fixture_->Ids("choice_without_1"));
}

}  // namespace
}  // namespace motet::golden
