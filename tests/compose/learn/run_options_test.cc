// SPDX-License-Identifier: Apache-2.0
// What a run may do beside taking steps: evaluate, stop early with its best
// weights, pass over spikes, keep documents apart, freeze, and go on after an
// interruption with all of it to the same bits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "compose/learn/spikes.h"
#include "compose/learn/step.h"
#include "compose/learn/trainer.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

using model::Block;
using testing::HasSubstr;

constexpr int64_t kWindow = 24;

TrainOptions Options() {
  TrainOptions options;
  options.steps = 30;
  options.batch_sequences = 4;
  options.sequence_tokens = kWindow;
  options.learning_rate = 1e-2;
  options.warmup_steps = 3;
  return options;
}

class RunOptionsTest : public testing::Test {
 protected:
  OwnedModel Start() const { return InitialModel(config_, 3); }
  // Mean cross entropy of whole windows; their number is what a run sees.
  double HeldOut(const OwnedModel& model) const {
    auto decoder = model::Decoder::Create(model.config, model.weights, {});
    std::vector<std::span<const int32_t>> windows;
    for (int64_t i = 0; i < held_out_.count(); ++i) {
      windows.push_back(held_out_.at(i));
    }
    return Evaluate(*decoder, windows, {}).cross_entropy;
  }

  const model::ModelConfig config_ = toy::Config(Block::kPreNorm);
  const TokenWindows own_ = toy::Windows(12, 1, kWindow);
  const TokenWindows held_out_ = toy::Windows(2, 40, kWindow);
};

TEST_F(RunOptionsTest, EvaluationIsReportedAndMovesNothing) {
  OwnedModel plain = Start();
  ASSERT_TRUE(TrainDense(plain, own_, Options(), nullptr).ok());
  TrainOptions options = Options();
  options.evaluate_every = 7;
  options.evaluate_windows = 0;
  OwnedModel model = Start();
  std::vector<int64_t> evaluated;
  double last = 0;
  auto result = TrainDense(
      model, own_, options,
      [&](const TrainProgress& p) {
        if (p.evaluated) {
          evaluated.push_back(p.step);
          last = p.evaluation;
          EXPECT_NEAR(p.evaluation, HeldOut(model), 1e-6);
          EXPECT_LE(p.best.loss, p.evaluation);
        }
        return true;
      },
      &held_out_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(toy::Bits(model), toy::Bits(plain));
  EXPECT_THAT(evaluated, testing::ElementsAre(7, 14, 21, 28, 30));
  ASSERT_EQ(result->evaluations.size(), 5u);
  EXPECT_EQ(result->evaluations.back().step, 30);
  EXPECT_EQ(result->evaluations.back().loss, last);
  EXPECT_FALSE(result->stopped_early);
  // Fewer windows are another number.
  options.evaluate_windows = 2;
  OwnedModel fewer = Start();
  auto part = TrainDense(fewer, own_, options, nullptr, &held_out_);
  ASSERT_TRUE(part.ok());
  EXPECT_NE(part->evaluations[0].loss, result->evaluations[0].loss);
}

TEST_F(RunOptionsTest, StopsEarlyWithItsBestWeights) {
  TrainOptions options = Options();
  options.steps = 400;
  options.learning_rate = 3e-2;  // learns its own words by heart
  options.evaluate_every = 2;
  options.evaluate_windows = 0;
  options.patience = 3;
  OwnedModel model = Start();
  auto result = TrainDense(model, own_, options, nullptr, &held_out_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->stopped_early);
  EXPECT_LT(result->steps, 400);
  EXPECT_EQ(result->steps, result->best.step + 3 * 2);
  EXPECT_EQ(result->loss_curve.size(), static_cast<size_t>(result->steps / 2));
  for (const Evaluation& e : result->evaluations) {
    EXPECT_GE(e.loss, result->best.loss);
  }
  EXPECT_NEAR(HeldOut(model), result->best.loss, 1e-6);
  EXPECT_LT(result->best.loss, result->evaluations.back().loss);
}

TEST(SpikeDetectorTest, ByHand) {
  SpikeDetector detector(3, 4);
  EXPECT_FALSE(detector.IsSpike(1e9));  // no window yet
  detector.Add(1);
  EXPECT_FALSE(detector.IsSpike(1e9));
  detector.Add(3);
  // Mean 2, deviation 1: the limit is 5.
  EXPECT_FALSE(detector.IsSpike(5));
  EXPECT_TRUE(detector.IsSpike(5.001));
  EXPECT_FALSE(detector.IsSpike(-100));
  for (double loss : {2.0, 2.0, 2.0, 2.0}) detector.Add(loss);
  // No deviation: the floor of 1 % of the mean.
  EXPECT_THAT(detector.losses(), testing::ElementsAre(2, 2, 2, 2));
  EXPECT_FALSE(detector.IsSpike(2.05));
  EXPECT_TRUE(detector.IsSpike(2.07));
  SpikeDetector off(0, 4);
  for (int i = 0; i < 9; ++i) off.Add(1);
  EXPECT_FALSE(off.IsSpike(1e9));
}

// Ten windows of one letter, then one of noise.
TokenWindows WithNoise() {
  std::string text(10 * kWindow, 'a');
  for (int64_t i = 0; i < kWindow; ++i) {
    text += static_cast<char>('b' + (i * i + 3 * i) % 25);
  }
  return TokenWindows(toy::Letters(), {text}, -1, kWindow);
}

TEST_F(RunOptionsTest, SpikesAreSkippedCountedAndReported) {
  TrainOptions options = Options();
  options.steps = 66;
  options.batch_sequences = 1;
  options.spike_sigma = 3;
  options.spike_window = 20;
  const auto run = [&](const TrainOptions& with, int64_t* moved) {
    OwnedModel model = Start();
    std::vector<float> before = toy::Bits(model);
    int64_t spikes = 0;
    auto result =
        TrainDense(model, WithNoise(), with, [&](const TrainProgress& p) {
          const std::vector<float> now = toy::Bits(model);
          if (p.spikes > spikes) {
            EXPECT_EQ(now, before);
            EXPECT_GT(p.loss, 1);
          } else {
            *moved += now != before;
          }
          EXPECT_EQ(p.skipped, p.spikes);
          spikes = p.spikes;
          before = now;
          return true;
        });
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->spikes, spikes);
    EXPECT_EQ(result->skipped, spikes);
    EXPECT_EQ(*moved, 66 - spikes);
    return result->spikes;
  };
  int64_t moved = 0;
  // Six epochs, the noise once in each; the first ones come too early.
  EXPECT_GE(run(options, &moved), 3);
  options.spike_sigma = 0;
  moved = 0;
  EXPECT_EQ(run(options, &moved), 0);
}

TEST_F(RunOptionsTest, EndsWithItsLastGoodCheckpointNamed) {
  OwnedModel whole = Start();
  ASSERT_TRUE(TrainDense(whole, own_, Options(), nullptr).ok());
  TrainOptions options = Options();
  options.checkpoint_every = 3;
  options.checkpoint_path = toy::FreshPath("good.safetensors");
  OwnedModel model = Start();
  const absl::Status status =
      TrainDense(model, own_, options, [&](const TrainProgress& p) {
        if (p.step == 7) {
          model.weights.final_norm.f32()[0] =
              std::numeric_limits<float>::infinity();
        }
        return true;
      }).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()),
              testing::AllOf(HasSubstr("at step 12"),
                             HasSubstr(options.checkpoint_path),
                             HasSubstr("of step 6")));
  // And it is good: the run goes on from it to the end.
  OwnedModel again = Start();
  int64_t first = 0;
  ASSERT_TRUE(TrainDense(again, own_, options, [&](const TrainProgress& p) {
                if (first == 0) first = p.step;
                return true;
              }).ok());
  EXPECT_EQ(first, 7);
  EXPECT_EQ(toy::Bits(again), toy::Bits(whole));
}

TEST_F(RunOptionsTest, SkippedStepsInARowAreCountedAcrossAnInterruption) {
  TrainOptions options = Options();
  options.checkpoint_path = toy::FreshPath("skipped.safetensors");
  OwnedModel model = Start();
  model.weights.final_norm.f32()[0] = std::numeric_limits<float>::infinity();
  const auto train = [&](int64_t stop) {
    return TrainDense(model, own_, options, [&](const TrainProgress& p) {
      return p.step < stop;
    }).status();
  };
  EXPECT_EQ(train(3).code(), absl::StatusCode::kCancelled);
  const absl::Status status = train(100);
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("at step 5"));
}

// Two documents in a window are two sequences: the same loss as by hand, and
// another one than that of the window read through.
TEST_F(RunOptionsTest, DocumentsKeepToThemselves) {
  std::vector<std::string> documents;
  for (const std::string& d : toy::Documents(20, 5)) {
    documents.push_back(d.substr(0, 5 + d.size() % 17));
  }
  const TokenWindows windows(toy::Letters(), documents, 26, kWindow);
  TrainOptions options = Options();
  options.steps = 1;
  options.warmup_steps = 0;
  options.batch_sequences = windows.count();
  double through = 0, apart = 0;
  OwnedModel model = Start();
  const auto loss = [&](bool boundaries) {
    options.document_boundaries = boundaries;
    OwnedModel fresh = Start();
    double value = 0;
    EXPECT_TRUE(TrainDense(fresh, windows, options, [&](const auto& p) {
                  value = p.loss;
                  return true;
                }).ok());
    return value;
  };
  through = loss(false);
  apart = loss(true);
  std::vector<std::span<const int32_t>> parts;
  for (int64_t i = 0; i < windows.count(); ++i) {
    for (const auto& part : windows.documents(i)) parts.push_back(part);
  }
  ASSERT_GT(parts.size(), static_cast<size_t>(windows.count()));
  auto decoder = model::Decoder::Create(model.config, model.weights, {});
  ASSERT_TRUE(decoder.ok());
  // The order of the windows is the batch plan's.
  EXPECT_NEAR(apart, Evaluate(*decoder, parts, {}).loss, 1e-6);
  EXPECT_GT(std::abs(apart - through), 1e-6);
}

TEST_F(RunOptionsTest, AllOfItGoesOnToTheSameBits) {
  const OwnedModel base_model = toy::Model(config_, 5);
  const auto base = toy::Loaded(base_model);
  const TokenWindows public_text = toy::Windows(12, 2, kWindow);
  OwnerOptions options;
  static_cast<TrainOptions&>(options) = Options();
  options.public_fraction = 0.25;
  options.router_z_weight = 1e-3;
  options.accumulation = 2;
  options.recompute_layers = 1;
  options.schedule = ScheduleShape::kWarmupStableDecay;
  options.document_boundaries = true;
  options.freeze = {"layers.0.mlp.*"};
  options.evaluate_every = 2;
  options.evaluate_windows = 3;
  options.patience = 4;
  options.spike_sigma = 1.5;  // low, so that some steps are skipped
  options.spike_window = 6;
  TrainResult whole_result;
  auto whole = TrainOwner(*base, own_, public_text, options, nullptr,
                          &whole_result, &held_out_);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_GT(whole_result.spikes, 0);
  EXPECT_GT(whole_result.evaluations.size(), 3u);

  options.checkpoint_path = toy::FreshPath("all.safetensors");
  for (int64_t stop = 2; stop < whole_result.steps; stop += 3) {
    EXPECT_EQ(TrainOwner(
                  *base, own_, public_text, options,
                  [&](const TrainProgress& p) { return p.step < stop; },
                  nullptr, &held_out_)
                  .status()
                  .code(),
              absl::StatusCode::kCancelled);
  }
  TrainResult result;
  // Other memory, same bits.
  options.recompute_layers = 0;
  auto resumed = TrainOwner(*base, own_, public_text, options, nullptr,
                            &result, &held_out_);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(toy::Bits(*resumed), toy::Bits(*whole));
  EXPECT_EQ(result.loss_curve, whole_result.loss_curve);
  EXPECT_EQ(result.evaluations, whole_result.evaluations);
  EXPECT_EQ(result.best, whole_result.best);
  EXPECT_EQ(result.spikes, whole_result.spikes);
  EXPECT_EQ(result.skipped, whole_result.skipped);
  EXPECT_EQ(result.stopped_early, whole_result.stopped_early);
  // Every option that moves a bit is named when it differs.
  for (const auto& [change, name] :
       std::vector<std::pair<std::function<void(OwnerOptions&)>, std::string>>{
           {[](auto& o) { o.accumulation = 1; }, "accumulation"},
           {[](auto& o) { o.schedule = ScheduleShape::kLinear; }, "schedule"},
           {[](auto& o) { o.document_boundaries = false; },
            "document_boundaries"},
           {[](auto& o) { o.freeze = {}; }, "freeze"},
           {[](auto& o) { o.patience = 5; }, "patience 5"},
           {[](auto& o) { o.spike_sigma = 2; }, "spikes"},
           {[](auto& o) { o.evaluate_windows = 2; }, "of them 2"}}) {
    OwnerOptions other = options;
    change(other);
    const absl::Status status = TrainOwner(*base, own_, public_text, other,
                                           nullptr, nullptr, &held_out_)
                                    .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

TEST_F(RunOptionsTest, FrozenTensorsKeepTheirBits) {
  TrainOptions options = Options();
  options.freeze = {"model.embed_tokens.*", "*norm*"};
  const OwnedModel before = Start();
  OwnedModel model = Start();
  ASSERT_TRUE(TrainDense(model, own_, options, nullptr).ok());
  const auto equal = [](const math::Tensor& a, const math::Tensor& b) {
    return std::equal(a.f32(), a.f32() + a.size(), b.f32());
  };
  EXPECT_TRUE(equal(model.weights.embed, before.weights.embed));
  EXPECT_TRUE(equal(model.weights.final_norm, before.weights.final_norm));
  EXPECT_FALSE(equal(model.weights.head, before.weights.head));
  EXPECT_FALSE(equal(model.weights.layers[0].q, before.weights.layers[0].q));
  options.freeze = {"*.nrom.*"};
  EXPECT_THAT(
      std::string(TrainDense(model, own_, options, nullptr).status().message()),
      HasSubstr("\"*.nrom.*\""));
}

TEST_F(RunOptionsTest, WhatDoesNotFitIsNamed) {
  OwnedModel model = Start();
  TrainOptions options = Options();
  options.patience = 2;
  options.accumulation = 5;
  options.recompute_layers = -2;
  options.decay_fraction = 0;
  options.spike_window = 1;
  std::string message(
      TrainDense(model, own_, options, nullptr).status().message());
  for (const char* part :
       {"patience 2 without", "in 5 pieces", "-2 layers",
        "decay_fraction 0", "of 1 losses"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
  options = Options();
  options.evaluate_every = 2;
  message = std::string(
      TrainDense(model, own_, options, nullptr).status().message());
  EXPECT_THAT(message, HasSubstr("held-out"));
}

}  // namespace
}  // namespace motet::learn
