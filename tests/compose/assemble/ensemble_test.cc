// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/ensemble.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "gmock/gmock.h"

namespace motet::assemble {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> Row(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> row(n);
  for (float& x : row) x = normal(random);
  return row;
}

TEST(PosteriorTest, IsBayesByHand) {
  Posterior posterior(std::vector<double>{1, 3});  // up to a factor
  EXPECT_THAT(posterior.Weights(),
              ElementsAre(DoubleNear(0.25, 1e-15), DoubleNear(0.75, 1e-15)));
  // The first model gave the token 0.6, the second 0.1: 0.15 to 0.075.
  posterior.Observe(std::vector<double>{std::log(0.6), std::log(0.1)});
  EXPECT_THAT(posterior.Weights(),
              ElementsAre(DoubleNear(2.0 / 3, 1e-12),
                          DoubleNear(1.0 / 3, 1e-12)));
}

TEST(PosteriorTest, LongPrefixesDoNotUnderflow) {
  Posterior posterior = Posterior::Uniform(2);
  for (int t = 0; t < 100000; ++t) {
    posterior.Observe(std::vector<double>{-20.0, -20.0});
  }
  EXPECT_THAT(posterior.Weights(), ElementsAre(0.5, 0.5));
}

TEST(PosteriorTest, APrefixThatNoModelWroteLeavesThePrior) {
  Posterior posterior(std::vector<double>{0.2, 0.8, 0});
  posterior.Observe(std::vector<double>{-kInf, -1, 0});
  EXPECT_THAT(posterior.Weights(), ElementsAre(0, 1, 0));
  posterior.Observe(std::vector<double>{0, -kInf, 0});
  EXPECT_THAT(posterior.Weights(), ElementsAre(DoubleNear(0.2, 1e-15),
                                               DoubleNear(0.8, 1e-15), 0));
}

TEST(KeepLargestTest, TiesGoToTheLowestAndAllStaysAsItIs) {
  std::vector<double> weights = {0.2, 0.3, 0.2, 0.3};
  KeepLargest(3, weights);
  EXPECT_THAT(weights, ElementsAre(DoubleNear(0.25, 1e-15),
                                   DoubleNear(0.375, 1e-15), 0,
                                   DoubleNear(0.375, 1e-15)));
  const std::vector<double> before = weights;
  KeepLargest(3, weights);
  EXPECT_EQ(weights, before);
  KeepLargest(1, weights);
  EXPECT_THAT(weights, ElementsAre(0, 1, 0, 0));
}

TEST(CentroidTest, TheNearestWinsByTheTemperature) {
  const std::vector<float> centres = {0, 0, 1, 0, 0, 2};  // three of [2]
  const std::vector<float> h = {0, 0};
  const auto weights = CentroidWeights(h, centres, 0.5);
  const double sum = 1 + std::exp(-2.0) + std::exp(-8.0);
  EXPECT_THAT(weights, ElementsAre(DoubleNear(1 / sum, 1e-12),
                                   DoubleNear(std::exp(-2.0) / sum, 1e-12),
                                   DoubleNear(std::exp(-8.0) / sum, 1e-12)));
}

// An ensemble of one is that model, bit for bit, whatever chose it.
TEST(MixLogitsTest, OfOneIsThatModel) {
  std::vector<float> only = Row(50, 1);
  only[7] = -kInf;
  const std::vector<float> other = Row(50, 2);
  std::vector<float> out(50);
  const std::span<const float> one[] = {only};
  MixLogits(one, Posterior::Uniform(1).Weights(), out);
  EXPECT_EQ(out, only);
  const std::span<const float> pair[] = {other, only};
  MixLogits(pair, std::vector<double>{0, 1}, out);
  EXPECT_EQ(out, only);
  // What has no weight need not be there.
  const std::span<const float> missing[] = {{}, only};
  MixLogits(missing, std::vector<double>{0, 1}, out);
  EXPECT_EQ(out, only);
}

// Equal models are that model, whatever the weights say.
TEST(MixLogitsTest, OfEqualModelsIsThatDistribution) {
  const std::vector<float> row = Row(50, 3);
  std::vector<float> out(50);
  const std::span<const float> views[] = {row, row, row};
  MixLogits(views, std::vector<double>{0.1, 0.6, 0.3}, out);
  double lse = 0;
  for (const float x : row) lse += std::exp(double{x});
  lse = std::log(lse);
  for (size_t v = 0; v < row.size(); ++v) {
    EXPECT_NEAR(out[v], row[v] - lse, 1e-5);
  }
}

TEST(MixLogitsTest, MixesProbabilitiesNotTheirLogarithms) {
  // Two certain models that disagree: half and half, not one over the rest.
  const std::vector<float> a = {60, 0, 0}, b = {0, 60, 0};
  std::vector<float> out(3);
  const std::span<const float> views[] = {a, b};
  MixLogits(views, std::vector<double>{0.25, 0.75}, out);
  EXPECT_NEAR(std::exp(out[0]), 0.25, 1e-6);
  EXPECT_NEAR(std::exp(out[1]), 0.75, 1e-6);
  EXPECT_LT(out[2], -50);
  // Impossible to every model stays impossible; the out may be an input.
  std::vector<float> c = {0, -kInf, 0}, d = {0, -kInf, -kInf};
  const std::span<const float> more[] = {c, d};
  MixLogits(more, std::vector<double>{0.5, 0.5}, c);
  EXPECT_NEAR(std::exp(c[0]), 0.75, 1e-6);
  EXPECT_EQ(c[1], -kInf);
  EXPECT_NEAR(std::exp(c[2]), 0.25, 1e-6);
}

// The weight of a model that is not in the set leaves no trace.
TEST(PosteriorTest, DoesNotDependOnModelsThatAreNotInIt) {
  Posterior two(std::vector<double>{0.5, 0.2});
  Posterior three(std::vector<double>{0.5, 0.2, 0.3});
  two.Observe(std::vector<double>{-1.5, -0.25});
  three.Observe(std::vector<double>{-1.5, -0.25, -1e9});
  const auto weights = three.Weights();
  EXPECT_EQ(weights[2], 0);
  EXPECT_EQ((std::vector<double>{weights[0], weights[1]}), two.Weights());
}

}  // namespace
}  // namespace motet::assemble
