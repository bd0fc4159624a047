// SPDX-License-Identifier: Apache-2.0
// Whole runs on toy text: they learn, they leave the base alone, they stop
// and go on to the same bits, they refuse what is not theirs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "compose/learn/step.h"
#include "compose/learn/statistics.h"
#include "compose/learn/trainer.h"
#include "proto/files.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

using model::Block;
using testing::HasSubstr;

constexpr int64_t kWindow = 24;

TrainOptions DenseOptions() {
  TrainOptions options;
  options.steps = 30;
  options.batch_sequences = 4;
  options.sequence_tokens = kWindow;
  options.learning_rate = 1e-2;
  options.warmup_steps = 5;
  options.weight_decay = 0.1;
  return options;
}

OwnerOptions OwnersOptions() {
  OwnerOptions options;
  static_cast<TrainOptions&>(options) = DenseOptions();
  options.weight_decay = 0;
  options.router_z_weight = 1e-3;
  options.lm_z_weight = 1e-5;
  options.public_fraction = 1.0 / 3;
  return options;
}

OnProgress StopAfter(int64_t step) {
  return [step](const TrainProgress& p) { return p.step < step; };
}

class RunTest : public testing::TestWithParam<Block> {
 protected:
  model::ModelConfig config_ = toy::Config(GetParam());
  TokenWindows own_ = toy::Windows(12, 1, kWindow);
  TokenWindows public_ = toy::Windows(12, 2, kWindow);
};

TEST_P(RunTest, DenseLossFallsAndIsReported) {
  OwnedModel model = InitialModel(config_, 3);
  std::vector<double> losses;
  TrainProgress last;
  auto result = TrainDense(model, own_, DenseOptions(),
                           [&](const TrainProgress& p) {
                             losses.push_back(p.loss);
                             last = p;
                             return true;
                           });
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(losses.size(), 30u);
  EXPECT_NEAR(losses[0], std::log(27), 0.2);
  EXPECT_LT(losses.back(), losses[0] - 0.5);
  EXPECT_EQ(result->loss_every, 1);
  EXPECT_EQ(result->loss_curve, losses);
  EXPECT_EQ(result->steps, 30);
  EXPECT_EQ(result->tokens, 30 * 4 * kWindow);
  EXPECT_EQ(result->skipped, 0);
  EXPECT_EQ(last.step, last.steps);
  EXPECT_NEAR(last.learning_rate, 1e-3, 1e-9);
  EXPECT_GT(last.tokens_per_second, 0);
  EXPECT_EQ(last.eta_seconds, 0);
}

TEST_P(RunTest, OwnersRunLearnsAndLeavesTheBaseAlone) {
  OwnedModel model = InitialModel(config_, 3);
  ASSERT_TRUE(TrainDense(model, public_, DenseOptions(), nullptr).ok());
  const auto base = toy::Loaded(model);
  const std::vector<float> before = toy::Bits(model);
  TrainResult result;
  OwnerOptions options = OwnersOptions();
  options.steps = 60;
  auto expert = TrainOwner(*base, own_, public_, options, nullptr, &result);
  ASSERT_TRUE(expert.ok()) << expert.status();
  EXPECT_EQ(toy::Bits(model), before);
  EXPECT_EQ(result.loss_curve.size(), 60u);

  auto pair = PairDecoder(*base, *expert);
  auto alone = BaseDecoder(*base);
  ASSERT_TRUE(pair.ok() && alone.ok());
  const std::vector<std::span<const int32_t>> probe = {own_.at(0), own_.at(5),
                                                       own_.at(9)};
  EXPECT_LT(Evaluate(*pair, probe, {}).cross_entropy,
            Evaluate(*alone, probe, {}).cross_entropy - 0.2);
  for (const OwnerExpert::Layer& layer : expert->layers) {
    for (int64_t c = 0; c < config_.width; ++c) {
      EXPECT_EQ(layer.router.f32()[c], 0);  // the base's row stays zero
    }
    EXPECT_EQ(layer.row.f32(), layer.router.f32() + config_.width);
  }
}

// METHODS 11, "switch": the own FFN takes the base's place, and no router
// row is trained; the row that leaves points where the own text lies.
TEST_P(RunTest, AloneTheOwnFfnLearnsWithoutTheBases) {
  OwnedModel model = InitialModel(config_, 3);
  ASSERT_TRUE(TrainDense(model, public_, DenseOptions(), nullptr).ok());
  const auto base = toy::Loaded(model);
  const std::vector<float> before = toy::Bits(model);
  OwnerOptions options = OwnersOptions();
  options.steps = 60;
  options.alone = true;
  options.public_fraction = 0;
  auto expert = TrainOwner(*base, own_, public_, options, nullptr, nullptr);
  ASSERT_TRUE(expert.ok()) << expert.status();
  EXPECT_EQ(toy::Bits(model), before);
  auto run = AloneDecoder(*base, *expert);
  auto dense = BaseDecoder(*base);
  ASSERT_TRUE(run.ok() && dense.ok());
  const std::vector<std::span<const int32_t>> probe = {own_.at(0), own_.at(5),
                                                       own_.at(9)};
  EXPECT_LT(Evaluate(*run, probe, {}).cross_entropy,
            Evaluate(*dense, probe, {}).cross_entropy - 0.2);
  auto mean = MeanRouterInputs(*dense, own_, 8192);
  ASSERT_TRUE(mean.ok());
  for (size_t l = 0; l < expert->layers.size(); ++l) {
    const OwnerExpert::Layer& layer = expert->layers[l];
    double square = 0, dot = 0, length = 0;
    for (int64_t c = 0; c < config_.width; ++c) {
      const double r = layer.row.f32()[c];
      const double m = (*mean)[l][static_cast<size_t>(c)];
      square += r * r, dot += r * m, length += m * m;
    }
    EXPECT_NEAR(square, 1, 1e-5);
    EXPECT_NEAR(dot, std::sqrt(length), 1e-4 * std::sqrt(length));
    EXPECT_EQ(layer.bias.f32()[0], 0);
  }
}

TEST_P(RunTest, WithoutBiasItStaysZeroAndTheRowLearns) {
  const OwnedModel model = toy::Model(config_, 4);
  const auto base = toy::Loaded(model);
  OwnerOptions options = OwnersOptions();
  options.steps = 5;
  auto with = TrainOwner(*base, own_, public_, options, nullptr, nullptr);
  options.bias = false;
  auto without = TrainOwner(*base, own_, public_, options, nullptr, nullptr);
  ASSERT_TRUE(with.ok() && without.ok());
  EXPECT_NE(with->layers[0].bias.f32()[0], 0);
  EXPECT_EQ(without->layers[0].bias.f32()[0], 0);
  double square = 0;
  for (int64_t c = 0; c < config_.width; ++c) {
    square += std::pow(without->layers[0].row.f32()[c], 2);
  }
  EXPECT_NE(static_cast<float>(std::sqrt(square)),
            static_cast<float>(options.row_norm));
}

TEST_P(RunTest, OwnRowStartsFromTheDifferenceOfMeans) {
  const OwnedModel model = toy::Model(config_, 4);
  const auto base = toy::Loaded(model);
  OwnerOptions options = OwnersOptions();
  options.steps = 1;
  options.warmup_steps = 0;
  options.learning_rate = 1e-12;  // all but nothing moves
  options.row_norm = 0.7;
  auto expert = TrainOwner(*base, own_, public_, options, nullptr, nullptr);
  ASSERT_TRUE(expert.ok()) << expert.status();
  for (const OwnerExpert::Layer& layer : expert->layers) {
    double square = 0;
    for (int64_t c = 0; c < config_.width; ++c) {
      square += std::pow(layer.row.f32()[c], 2);
    }
    EXPECT_NEAR(std::sqrt(square), 0.7, 1e-5);
    EXPECT_NEAR(layer.bias.f32()[0], 0, 1e-9);
  }
}

TEST_P(RunTest, OwnRowStartsWhereTheCallerSays) {
  const OwnedModel model = toy::Model(config_, 4);
  const auto base = toy::Loaded(model);
  OwnerOptions options = OwnersOptions();
  options.steps = 1;
  options.warmup_steps = 0;
  options.learning_rate = 1e-12;
  options.row_direction.resize(static_cast<size_t>(config_.width));
  options.row_direction[1] = 3;
  options.row_direction[2] = -4;
  auto expert = TrainOwner(*base, own_, public_, options, nullptr, nullptr);
  ASSERT_TRUE(expert.ok()) << expert.status();
  for (const OwnerExpert::Layer& layer : expert->layers) {
    EXPECT_NEAR(layer.row.f32()[0], 0, 1e-9);
    EXPECT_NEAR(layer.row.f32()[1], 0.3, 1e-7);
    EXPECT_NEAR(layer.row.f32()[2], -0.4, 1e-7);
  }
  OwnerOptions alone = options;
  alone.alone = true;
  options.row_direction.pop_back();
  for (const OwnerOptions& o : {options, alone}) {
    EXPECT_THAT(
        std::string(TrainOwner(*base, own_, public_, o, nullptr, nullptr)
                        .status()
                        .message()),
        HasSubstr("a row's direction of"));
  }
}

TEST_P(RunTest, StoppedRunGoesOnToTheSameBits) {
  OwnedModel whole = InitialModel(config_, 3);
  auto unbroken = TrainDense(whole, own_, DenseOptions(), nullptr);
  ASSERT_TRUE(unbroken.ok());

  TrainOptions options = DenseOptions();
  options.checkpoint_path = toy::FreshPath("dense.safetensors");
  options.checkpoint_every = 4;
  for (int64_t stop : {7, 8, 19}) {
    OwnedModel model = InitialModel(config_, 3);
    const auto status =
        TrainDense(model, own_, options, StopAfter(stop)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  }
  OwnedModel model = InitialModel(config_, 3);
  int64_t first = 0;
  auto resumed = TrainDense(model, own_, options, [&](const TrainProgress& p) {
    if (first == 0) first = p.step;
    return true;
  });
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(first, 20);
  EXPECT_EQ(toy::Bits(model), toy::Bits(whole));
  EXPECT_EQ(resumed->loss_curve, unbroken->loss_curve);

  // A finished run's checkpoint gives the weights without a step.
  OwnedModel again = InitialModel(config_, 3);
  auto finished = TrainDense(again, own_, options, [](const TrainProgress&) {
    ADD_FAILURE() << "a step of a finished run";
    return true;
  });
  ASSERT_TRUE(finished.ok());
  EXPECT_EQ(toy::Bits(again), toy::Bits(whole));
  EXPECT_EQ(finished->loss_curve, unbroken->loss_curve);
}

TEST_P(RunTest, StoppedOwnersRunGoesOnToTheSameBits) {
  const OwnedModel model = toy::Model(config_, 5);
  const auto base = toy::Loaded(model);
  OwnerOptions options = OwnersOptions();
  auto whole = TrainOwner(*base, own_, public_, options, nullptr, nullptr);
  ASSERT_TRUE(whole.ok());
  options.checkpoint_path = toy::FreshPath("owner.safetensors");
  EXPECT_EQ(TrainOwner(*base, own_, public_, options, StopAfter(11), nullptr)
                .status()
                .code(),
            absl::StatusCode::kCancelled);
  auto resumed = TrainOwner(*base, own_, public_, options, nullptr, nullptr);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(toy::Bits(*resumed), toy::Bits(*whole));
}

INSTANTIATE_TEST_SUITE_P(Blocks, RunTest,
                         testing::Values(Block::kPreNorm, Block::kPostNorm),
                         [](const auto& info) {
                           return info.param == Block::kPreNorm ? "PreNorm"
                                                                : "PostNorm";
                         });

class RefusalTest : public testing::Test {
 protected:
  // A checkpoint of a run stopped at step 3.
  void SetUp() override {
    options_ = DenseOptions();
    options_.checkpoint_path = toy::FreshPath("run.safetensors");
    OwnedModel model = InitialModel(config_, 3);
    ASSERT_EQ(TrainDense(model, own_, options_, StopAfter(3)).status().code(),
              absl::StatusCode::kCancelled);
  }
  absl::Status Resume(const TrainOptions& options, const TokenWindows& text,
                      uint64_t seed = 3) {
    OwnedModel model = InitialModel(config_, seed);
    const std::vector<float> before = toy::Bits(model);
    const absl::Status status =
        TrainDense(model, text, options, nullptr).status();
    if (!status.ok()) {
      EXPECT_EQ(toy::Bits(model), before);
    }
    return status;
  }

  model::ModelConfig config_ = toy::Config(Block::kPostNorm);
  TokenWindows own_ = toy::Windows(12, 1, kWindow);
  TrainOptions options_;
};

TEST_F(RefusalTest, NamesTheOptionsThatDiffer) {
  TrainOptions other = options_;
  other.learning_rate = 5e-3;
  other.steps = 31;
  const absl::Status status = Resume(other, own_);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr(options_.checkpoint_path));
  EXPECT_THAT(message, HasSubstr("steps = 30"));
  EXPECT_THAT(message, HasSubstr("steps = 31"));
  EXPECT_THAT(message, HasSubstr("learning_rate = 0.01"));
  EXPECT_THAT(message, testing::Not(HasSubstr("warmup")));
}

TEST_F(RefusalTest, OtherTextAndOtherStart) {
  const absl::Status text = Resume(options_, toy::Windows(12, 9, kWindow));
  EXPECT_THAT(std::string(text.message()), HasSubstr("text = "));
  const absl::Status start = Resume(options_, own_, 4);
  EXPECT_THAT(std::string(start.message()), HasSubstr("start = "));
}

TEST_F(RefusalTest, WhereCheckpointsGoIsNoPartOfTheRun) {
  TrainOptions same = options_;
  same.checkpoint_every = 10;
  EXPECT_TRUE(Resume(same, own_).ok());
}

TEST_F(RefusalTest, EveryDamagedByteIsSeen) {
  auto bytes = proto::ReadFile(options_.checkpoint_path, 1 << 24);
  ASSERT_TRUE(bytes.ok());
  const auto write = [&](const std::string& text) {
    std::ofstream(options_.checkpoint_path, std::ios::binary) << text;
  };
  for (size_t at : {bytes->size() - 1, bytes->size() / 2, bytes->size() / 3}) {
    std::string flipped = *bytes;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x10);
    write(flipped);
    EXPECT_FALSE(Resume(options_, own_).ok()) << at;
  }
  for (const std::string& text :
       {bytes->substr(0, bytes->size() - 5), std::string(), std::string("x")}) {
    write(text);
    const absl::Status status = Resume(options_, own_);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("remove the file"));
  }
}

TEST_F(RefusalTest, AFolderThatIsNotThereIsAnError) {
  TrainOptions options = options_;
  options.checkpoint_path = "/nowhere/at/all/checkpoint.safetensors";
  options.checkpoint_every = 2;
  OwnedModel model = InitialModel(config_, 3);
  EXPECT_FALSE(TrainDense(model, own_, options, nullptr).ok());
}

TEST(OptionsTest, AllReasonsInOneError) {
  OwnedModel model = InitialModel(toy::Config(Block::kPostNorm), 3);
  TrainOptions options;
  options.steps = 0;
  options.batch_sequences = 0;
  options.learning_rate = -1;
  options.sequence_tokens = 100;
  options.checkpoint_every = 3;
  const absl::Status status =
      TrainDense(model, toy::Windows(12, 1, 24), options, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::string message(status.message());
  for (const char* part :
       {"0 steps", "batches of 0", "learning rate -1", "at most 64",
        "windows of 24", "checkpoint_path"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(OptionsTest, PublicShareWithoutPublicText) {
  const OwnedModel model = InitialModel(toy::Config(Block::kPostNorm), 3);
  const auto base = toy::Loaded(model);
  const absl::Status status =
      TrainOwner(*base, toy::Windows(12, 1, kWindow),
                 toy::Windows(0, 1, kWindow), OwnersOptions(), nullptr,
                 nullptr)
          .status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("public"));
}

TEST(OptionsTest, TooLittleText) {
  OwnedModel model = InitialModel(toy::Config(Block::kPostNorm), 3);
  const TokenWindows short_text(toy::Letters(), {"abc"}, 26, kWindow);
  const absl::Status status =
      TrainDense(model, short_text, DenseOptions(), nullptr).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("3 tokens"));
}

TEST(NonFiniteTest, StepsAreSkippedAndTheRunEnds) {
  OwnedModel model = InitialModel(toy::Config(Block::kPostNorm), 3);
  model.weights.final_norm.f32()[0] = std::numeric_limits<float>::infinity();
  const std::vector<float> before = toy::Bits(model);
  std::vector<int64_t> skipped;
  const absl::Status status =
      TrainDense(model, toy::Windows(12, 1, kWindow), DenseOptions(),
                 [&](const TrainProgress& p) {
                   skipped.push_back(p.skipped);
                   return true;
                 })
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("learning rate"));
  EXPECT_THAT(skipped, testing::ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(toy::Bits(model), before);
}

TEST(InitialModelTest, SameSeedSameBitsOnAnyThreads) {
  const model::ModelConfig config = toy::Config(Block::kPostNorm);
  const std::vector<float> bits = toy::Bits(InitialModel(config, 3));
  const int threads = math::Threads();
  math::SetThreads(1);
  EXPECT_EQ(toy::Bits(InitialModel(config, 3)), bits);
  math::SetThreads(threads);
  EXPECT_NE(toy::Bits(InitialModel(config, 4)), bits);
}

TEST(InitialModelTest, DeviationsAreAsDocumented) {
  model::ModelConfig config = toy::Config(Block::kPostNorm);
  config.width = 64;
  config.ffn_width = 128;
  config.head_dim = 16;
  const OwnedModel model = InitialModel(config, 3);
  const auto deviation = [](const math::Tensor& t) {
    double square = 0;
    for (int64_t i = 0; i < t.size(); ++i) square += std::pow(t.f32()[i], 2);
    return std::sqrt(square / static_cast<double>(t.size()));
  };
  const model::LayerWeights& layer = model.weights.layers[0];
  EXPECT_NEAR(deviation(layer.q), 0.02, 2e-3);
  EXPECT_NEAR(deviation(layer.experts[0].gate), 0.02, 2e-3);
  EXPECT_NEAR(deviation(layer.o), 0.01, 1e-3);  // L = 2
  EXPECT_NEAR(deviation(layer.experts[0].down), 0.01, 1e-3);
  EXPECT_EQ(deviation(layer.q_norm), 1);
}

}  // namespace
}  // namespace motet::learn
