// SPDX-License-Identifier: Apache-2.0
#include "compose/model/sampler.h"

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace motet::model {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Logits whose softmax is this.
std::vector<float> LogitsOf(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (double p : probabilities) {
    logits.push_back(static_cast<float>(std::log(p) + 1.5));
  }
  return logits;
}

std::vector<int> Histogram(const std::vector<float>& logits,
                           const SamplerOptions& options, int draws) {
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i) ++counts[Sample(logits, options, i)];
  return counts;
}

// Pearson's statistic of counts against probabilities; tokens of probability
// 0 must not occur.
double ChiSquare(const std::vector<int>& counts,
                 const std::vector<double>& probabilities) {
  double draws = 0, sum = 0;
  for (int c : counts) draws += c;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (probabilities[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i;
      continue;
    }
    const double expected = draws * probabilities[i];
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

// 99.99 % of the chi-square distribution with 5 (and fewer) degrees.
constexpr double kUnlikely = 25.75;
const std::vector<double> kSix = {0.05, 0.3, 0.1, 0.35, 0.15, 0.05};

TEST(SamplerTest, DrawsFollowTheSoftmax) {
  for (uint64_t seed : {0u, 1u, 12345u}) {
    SamplerOptions options;
    options.seed = seed;
    EXPECT_LT(ChiSquare(Histogram(LogitsOf(kSix), options, 100000), kSix),
              kUnlikely);
  }
}

TEST(SamplerTest, DrawsOfConsecutiveSeedsAtOnePositionAreSpreadToo) {
  std::vector<int> counts(kSix.size());
  SamplerOptions options;
  for (options.seed = 0; options.seed < 100000; ++options.seed) {
    ++counts[Sample(LogitsOf(kSix), options, 7)];
  }
  EXPECT_LT(ChiSquare(counts, kSix), kUnlikely);
}

TEST(SamplerTest, PairsOfPositionsAreIndependent) {
  // 4 x 4 cells of (u(p), u(p + 1)): 15 degrees, 99.99 % at 44.3.
  std::vector<int> counts(16);
  const int draws = 160000;
  for (int p = 0; p < draws; ++p) {
    const double a = UniformAt(3, p), b = UniformAt(3, p + 1);
    ASSERT_GE(a, 0);
    ASSERT_LT(a, 1);
    ++counts[static_cast<int>(a * 4) * 4 + static_cast<int>(b * 4)];
  }
  EXPECT_LT(ChiSquare(counts, std::vector<double>(16, 1.0 / 16)), 44.3);
}

TEST(SamplerTest, ChiSquareRefusesAWrongDistribution) {
  SamplerOptions options;
  options.temperature = 0.9;  // against the softmax at 1
  EXPECT_GT(ChiSquare(Histogram(LogitsOf(kSix), options, 100000), kSix),
            kUnlikely);
}

TEST(SamplerTest, TemperatureSharpens) {
  SamplerOptions options;
  options.temperature = 0.5;
  std::vector<double> squared;
  double sum = 0;
  for (double p : kSix) sum += p * p;
  for (double p : kSix) squared.push_back(p * p / sum);
  EXPECT_LT(ChiSquare(Histogram(LogitsOf(kSix), options, 100000), squared),
            kUnlikely);
}

TEST(SamplerTest, ZeroTemperatureIsGreedyTiesToTheLowest) {
  SamplerOptions options;
  options.temperature = 0;
  const std::vector<float> logits = {1, 3, 2, 3};
  for (int position = 0; position < 20; ++position) {
    EXPECT_EQ(Sample(logits, options, position), 1);
  }
}

TEST(SamplerTest, TopKKeepsTheLikeliest) {
  SamplerOptions options;
  options.top_k = 2;
  EXPECT_LT(ChiSquare(Histogram(LogitsOf(kSix), options, 100000),
                      {0, 0.3 / 0.65, 0, 0.35 / 0.65, 0, 0}),
            kUnlikely);
  options.top_k = 1;
  EXPECT_EQ(Histogram(LogitsOf(kSix), options, 100)[3], 100);
  options.top_k = 100;  // more than there are
  EXPECT_LT(ChiSquare(Histogram(LogitsOf(kSix), options, 100000), kSix),
            kUnlikely);
}

TEST(SamplerTest, TopPKeepsTheCrossingToken) {
  SamplerOptions options;
  options.top_p = 0.7;  // 0.35 + 0.3 < 0.7 <= + 0.15
  EXPECT_LT(ChiSquare(Histogram(LogitsOf(kSix), options, 100000),
                      {0, 0.375, 0, 0.4375, 0.1875, 0}),
            kUnlikely);
  options.top_p = 0;  // the likeliest always stays
  EXPECT_EQ(Histogram(LogitsOf(kSix), options, 100)[3], 100);
}

TEST(SamplerTest, TopPIsOfWhatTopKLeft) {
  SamplerOptions options;
  options.top_k = 3;    // 0.35, 0.3, 0.15 of 0.8
  options.top_p = 0.8;  // 0.65 / 0.8 = 0.8125 suffices
  EXPECT_LT(ChiSquare(Histogram(LogitsOf(kSix), options, 100000),
                      {0, 0.3 / 0.65, 0, 0.35 / 0.65, 0, 0}),
            kUnlikely);
}

TEST(SamplerTest, MinPIsAShareOfTheLikeliest) {
  SamplerOptions options;
  options.min_p = 0.4;  // 0.14: 0.35, 0.3, 0.15 stay
  EXPECT_LT(ChiSquare(Histogram(LogitsOf(kSix), options, 100000),
                      {0, 0.375, 0, 0.4375, 0.1875, 0}),
            kUnlikely);
  options.min_p = 5;  // the likeliest always stays
  EXPECT_EQ(Histogram(LogitsOf(kSix), options, 100)[3], 100);
}

TEST(SamplerTest, ADrawDependsOnSeedAndPositionAlone) {
  const std::vector<float> logits(1000, 0.0f);
  SamplerOptions options;
  options.seed = 9;
  std::set<int32_t> seen;
  for (int position = 0; position < 50; ++position) {
    const int32_t id = Sample(logits, options, position);
    EXPECT_EQ(Sample(logits, options, position), id);
    seen.insert(id);
  }
  EXPECT_GT(seen.size(), 40u);
  SamplerOptions other = options;
  other.seed = 10;
  int equal = 0;
  for (int position = 0; position < 50; ++position) {
    equal +=
        Sample(logits, options, position) == Sample(logits, other, position);
  }
  EXPECT_LT(equal, 5);
}

TEST(SamplerTest, BadLogitsAreNeverChosen) {
  SamplerOptions options;
  const std::vector<float> logits = {kNan, -kInfinity, 0, kNan, 1};
  for (int position = 0; position < 200; ++position) {
    EXPECT_THAT(Sample(logits, options, position), testing::AnyOf(2, 4));
  }
  EXPECT_EQ(Sample(std::vector<float>{kNan, kNan}, options, 0), 0);
  EXPECT_EQ(Sample(std::vector<float>{}, options, 0), 0);
  EXPECT_EQ(Sample(std::vector<float>{0, kInfinity}, options, 0), 1);
}

TEST(SamplerTest, LogProbabilities) {
  const std::vector<float> logits = LogitsOf(kSix);
  for (size_t i = 0; i < kSix.size(); ++i) {
    EXPECT_NEAR(LogProbability(logits, static_cast<int32_t>(i)),
                std::log(kSix[i]), 1e-6);
  }
  EXPECT_EQ(LogProbability(logits, 6), -kInfinity);
  EXPECT_EQ(LogProbability(logits, -1), -kInfinity);
  const auto top = TopLogProbabilities(logits, 3);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].first, 3);
  EXPECT_EQ(top[1].first, 1);
  EXPECT_EQ(top[2].first, 4);
  EXPECT_NEAR(top[2].second, std::log(0.15), 1e-6);
  EXPECT_EQ(TopLogProbabilities(logits, 100).size(), 6u);
  EXPECT_TRUE(TopLogProbabilities(logits, -1).empty());
  // Large logits: the difference is taken in double.
  EXPECT_NEAR(LogProbability(std::vector<float>{10000, 9999}, 1),
              -1 - std::log1p(std::exp(-1.0)), 1e-12);
  // Ties go to the lower id.
  EXPECT_EQ(TopLogProbabilities(std::vector<float>{1, 2, 2}, 1)[0].first, 1);
}

}  // namespace
}  // namespace motet::model
