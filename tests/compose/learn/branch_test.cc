// SPDX-License-Identifier: Apache-2.0
// Branches of a base: they start as the base, wider ones too; they learn,
// leave the base alone, and go on to the same bits after a stop.
#include "compose/learn/branch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "compose/learn/step.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

using model::Block;
using ::testing::HasSubstr;

constexpr int64_t kWindow = 24;

BranchOptions Options() {
  BranchOptions options;
  options.steps = 20;
  options.batch_sequences = 4;
  options.sequence_tokens = kWindow;
  options.learning_rate = 1e-2;
  options.warmup_steps = 2;
  options.lm_z_weight = 1e-5;
  options.public_fraction = 1.0 / 3;
  return options;
}

std::map<std::string, math::Tensor> ByName(const OwnedModel& model) {
  std::map<std::string, math::Tensor> tensors;
  model::ModelWeights views = model.weights;
  VisitWeights(model.config, views,
               [&](const std::string& name, const math::Shape&,
                   math::Tensor& t) { tensors[name] = t; });
  return tensors;
}

class BranchTest : public ::testing::TestWithParam<Block> {
 protected:
  double Loss(const OwnedModel& model) {
    auto decoder = BranchDecoder(model);
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    const std::vector<std::span<const int32_t>> text = {own_.at(0), own_.at(5),
                                                        own_.at(9)};
    return Evaluate(*decoder, text, {}).cross_entropy;
  }
  OwnedModel Train(const BranchOptions& options,
                   TrainResult* result = nullptr) {
    auto branch = TrainBranch(*base_, own_, public_, options, nullptr, result);
    EXPECT_TRUE(branch.ok()) << branch.status();
    return *std::move(branch);
  }

  const model::ModelConfig config_ = toy::Config(GetParam());
  const OwnedModel model_ = toy::Model(config_, 3);
  const std::unique_ptr<package::LoadedModel> base_ = toy::Loaded(model_);
  const TokenWindows own_ = toy::Windows(12, 1, kWindow);
  const TokenWindows public_ = toy::Windows(12, 2, kWindow);
};

TEST_P(BranchTest, StartsAsTheBaseAndLearns) {
  auto start = StartBranch(*base_, 0, 1);
  ASSERT_TRUE(start.ok());
  EXPECT_EQ(toy::Bits(*start), toy::Bits(model_));
  const std::vector<float> before = toy::Bits(model_);
  TrainResult result;
  const OwnedModel branch = Train(Options(), &result);
  EXPECT_EQ(toy::Bits(model_), before);
  EXPECT_LT(Loss(branch), Loss(model_) - 0.3);
  EXPECT_EQ(result.steps, 20);
  const auto from = ByName(model_);
  for (const auto& [name, tensor] : ByName(branch)) {
    EXPECT_NE(0, std::memcmp(tensor.data, from.at(name).data,
                             static_cast<size_t>(tensor.bytes())))
        << name << " was not trained";
  }
}

// A wider branch computes what the base does; its new rows are not dead.
TEST_P(BranchTest, WiderStartsAsTheBaseAndItsNewRowsLearn) {
  constexpr int64_t kWider = 20, kOld = 12;
  auto start = StartBranch(*base_, kWider, 7);
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_EQ(start->config.ffn_width, kWider);
  EXPECT_NEAR(Loss(*start), Loss(model_), 1e-6);
  auto again = StartBranch(*base_, kWider, 7);
  auto other = StartBranch(*base_, kWider, 8);
  EXPECT_EQ(toy::Bits(*start), toy::Bits(*again));
  EXPECT_NE(toy::Bits(*start), toy::Bits(*other));
  BranchOptions options = Options();
  options.ffn_width = kWider;
  options.seed = 7;
  const OwnedModel branch = Train(options);
  for (size_t l = 0; l < branch.weights.layers.size(); ++l) {
    const model::FfnWeights& from = start->weights.layers[l].experts[0];
    const model::FfnWeights& to = branch.weights.layers[l].experts[0];
    for (int64_t f = kOld; f < kWider; ++f) {
      double gate = 0, down = 0;
      for (int64_t c = 0; c < config_.width; ++c) {
        EXPECT_EQ(from.down.f32()[c * kWider + f], 0);
        down += std::abs(to.down.f32()[c * kWider + f]);
        gate += std::abs(to.gate.f32()[f * config_.width + c] -
                         from.gate.f32()[f * config_.width + c]);
      }
      EXPECT_GT(down, 0) << "layer " << l << " row " << f;
      EXPECT_GT(gate, 0) << "layer " << l << " row " << f;
    }
  }
  EXPECT_LT(Loss(branch), Loss(model_) - 0.3);
}

TEST_P(BranchTest, NarrowerKeepsTheLoudestRows) {
  // Row 4 of layer 1 says nothing, rows 0 and 7 little.
  OwnedModel model = toy::Model(config_, 3);
  model::FfnWeights& ffn = model.weights.layers[1].experts[0];
  const int64_t c = config_.width, f = config_.ffn_width;
  for (int64_t i = 0; i < c; ++i) {
    ffn.down.f32()[i * f + 4] = 0;
    ffn.gate.f32()[i] *= 1e-3f;
    ffn.up.f32()[7 * c + i] *= 1e-3f;
  }
  const auto base = toy::Loaded(model);
  auto start = StartBranch(*base, f - 3, 7);
  ASSERT_TRUE(start.ok()) << start.status();
  const model::FfnWeights& own = start->weights.layers[1].experts[0];
  ASSERT_EQ(own.gate.shape, (math::Shape{f - 3, c}));
  int64_t row = 0;
  for (int64_t kept : {1, 2, 3, 5, 6, 8, 9, 10, 11}) {
    for (int64_t i = 0; i < c; ++i) {
      EXPECT_EQ(own.gate.f32()[row * c + i], ffn.gate.f32()[kept * c + i]);
      EXPECT_EQ(own.up.f32()[row * c + i], ffn.up.f32()[kept * c + i]);
      EXPECT_EQ(own.down.f32()[i * (f - 3) + row],
                ffn.down.f32()[i * f + kept]);
    }
    ++row;
  }
}

TEST_P(BranchTest, FrozenTrunkLeavesAllButTheFfns) {
  BranchOptions options = Options();
  options.frozen_trunk = true;
  const OwnedModel branch = Train(options);
  const auto from = ByName(model_);
  for (const auto& [name, tensor] : ByName(branch)) {
    const bool same = std::memcmp(tensor.data, from.at(name).data,
                                  static_cast<size_t>(tensor.bytes())) == 0;
    EXPECT_EQ(same, name.find(".mlp.") == std::string::npos) << name;
  }
  EXPECT_LT(Loss(branch), Loss(model_) - 0.05);
}

// Leaving the schedule early is the schedule's own run up to there, and a run
// that was stopped goes on to the same bits.
TEST_P(BranchTest, LeavesTheScheduleAndResumesToTheSameBits) {
  BranchOptions options = Options();
  options.ffn_width = 20;
  options.stop_step = 11;
  TrainResult result;
  const OwnedModel whole = Train(options, &result);
  EXPECT_EQ(result.steps, 11);
  EXPECT_EQ(result.loss_curve.size(), 11u);

  options.checkpoint_path = toy::FreshPath("branch");
  options.checkpoint_every = 4;
  for (const int64_t stop : {6, 9}) {
    auto part = TrainBranch(
        *base_, own_, public_, options,
        [&](const TrainProgress& p) {
          EXPECT_EQ(p.steps, 11);
          return p.step < stop;
        },
        nullptr);
    EXPECT_EQ(part.status().code(), absl::StatusCode::kCancelled);
  }
  EXPECT_EQ(toy::Bits(Train(options)), toy::Bits(whole));

  // The first eleven steps of the whole schedule, no more and no others.
  BranchOptions all = options;
  all.checkpoint_path.clear();
  all.checkpoint_every = all.stop_step = 0;
  std::vector<double> losses;
  auto ran = TrainBranch(
      *base_, own_, public_, all,
      [&](const TrainProgress& p) {
        losses.push_back(p.loss);
        return true;
      },
      nullptr);
  ASSERT_TRUE(ran.ok());
  losses.resize(11);
  EXPECT_EQ(losses, result.loss_curve);

  // A checkpoint of another width, trunk or end is refused.
  for (const auto change : {+[](BranchOptions& o) { o.ffn_width = 21; },
                            +[](BranchOptions& o) { o.frozen_trunk = true; },
                            +[](BranchOptions& o) { o.stop_step = 12; }}) {
    BranchOptions changed = options;
    change(changed);
    auto refused =
        TrainBranch(*base_, own_, public_, changed, nullptr, nullptr);
    EXPECT_THAT(std::string(refused.status().message()),
                HasSubstr("another run"));
  }
}

TEST_P(BranchTest, WhatCannotBeIsRefused) {
  BranchOptions options = Options();
  options.stop_step = 21;
  auto refused = TrainBranch(*base_, own_, public_, options, nullptr, nullptr);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("a stop after step 21 of 20"));
  model::ModelConfig experts = config_;
  experts.experts = 2;
  experts.experts_per_token = 1;
  const OwnedModel mixture = toy::Model(experts, 3);
  const auto base = toy::Loaded(mixture);
  options = Options();
  options.ffn_width = 20;
  refused = TrainBranch(*base, own_, public_, options, nullptr, nullptr);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("width 20 beside a base of 2 experts"));
  options.ffn_width = 0;
  EXPECT_TRUE(
      TrainBranch(*base, own_, public_, options, nullptr, nullptr).ok());
}

INSTANTIATE_TEST_SUITE_P(Blocks, BranchTest,
                         ::testing::Values(Block::kPreNorm, Block::kPostNorm),
                         [](const auto& test) {
                           return test.param == Block::kPreNorm ? "PreNorm"
                                                                : "PostNorm";
                         });

}  // namespace
}  // namespace motet::learn
