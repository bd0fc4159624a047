// SPDX-License-Identifier: Apache-2.0
// Fisher information against differences of the likelihood itself.
#include "compose/learn/fisher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "compose/learn/branch.h"
#include "compose/learn/step.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

constexpr int64_t kWindow = 24;

class FisherTest : public ::testing::TestWithParam<model::Block> {
 protected:
  // log p of a window, in the double that Evaluate sums in.
  double LogP(const OwnedModel& model, int64_t window) {
    const auto decoder = BranchDecoder(model);
    EXPECT_TRUE(decoder.ok());
    const std::span<const int32_t> ids = text_.at(window);
    return -Evaluate(*decoder, Sequences(&ids, 1), {}).cross_entropy;
  }
  const model::ModelConfig config_ = toy::Config(GetParam());
  OwnedModel model_ = toy::Model(config_, 3);
  const TokenWindows text_ = toy::Windows(12, 1, kWindow);
};

TEST_P(FisherTest, IsTheMeanSquareOfTheLikelihoodsSlope) {
  constexpr int64_t kWindows = 3;
  const std::vector<float> before = toy::Bits(model_);
  auto fisher = ComputeFisher(model_, text_, kWindows * kWindow + 1);
  ASSERT_TRUE(fisher.ok()) << fisher.status();
  EXPECT_EQ(toy::Bits(model_), before);
  std::vector<Parameter> weights = DenseParameters(model_);
  const std::vector<Parameter> found = DenseParameters(*fisher);
  ASSERT_EQ(found.size(), weights.size());
  for (size_t p = 0; p < weights.size(); ++p) {
    ASSERT_EQ(found[p].name, weights[p].name);
    const math::Tensor f = found[p].value;
    int64_t at = 0;  // the weight that says most
    for (int64_t j = 0; j < f.size(); ++j) {
      ASSERT_GE(f.f32()[j], 0) << found[p].name;
      if (f.f32()[j] > f.f32()[at]) at = j;
    }
    float& w = weights[p].value.f32()[at];
    const float old = w;
    constexpr float kStep = 1e-2f;
    double square = 0;
    for (int64_t i = 0; i < kWindows; ++i) {
      w = old + kStep;
      const double up = LogP(model_, i);
      w = old - kStep;
      const double down = LogP(model_, i);
      square += std::pow((up - down) / (2 * kStep), 2) / kWindows;
    }
    w = old;
    EXPECT_NEAR(f.f32()[at], square, 0.05 * square + 1e-9) << found[p].name;
  }
}

TEST_P(FisherTest, OneWindowAtLeastAndTextAtAll) {
  auto one = ComputeFisher(model_, text_, 1);
  auto same = ComputeFisher(model_, text_, kWindow);
  auto more = ComputeFisher(model_, text_, 2 * kWindow);
  ASSERT_TRUE(one.ok() && same.ok() && more.ok());
  EXPECT_EQ(toy::Bits(*one), toy::Bits(*same));
  EXPECT_NE(toy::Bits(*one), toy::Bits(*more));
  const TokenWindows none = toy::Windows(0, 1, kWindow);
  EXPECT_FALSE(ComputeFisher(model_, none, 100).ok());
}

INSTANTIATE_TEST_SUITE_P(Blocks, FisherTest,
                         ::testing::Values(model::Block::kPreNorm,
                                           model::Block::kPostNorm),
                         [](const auto& test) {
                           return test.param == model::Block::kPreNorm
                                      ? "PreNorm"
                                      : "PostNorm";
                         });

}  // namespace
}  // namespace motet::learn
