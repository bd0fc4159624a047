// SPDX-License-Identifier: Apache-2.0
// Router tuning on toy text: the loss falls, nothing but rows moves, a run
// that was stopped ends with the bits of one that was not, load balance is of
// the whole batch, and what could not learn is refused.
#include "compose/learn/router_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compose/learn/hash.h"
#include "compose/learn/step.h"
#include "compose/model/mixture.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

using Choice = RouterOptions::Choice;
using model::Block;
using testing::HasSubstr;

constexpr int64_t kWindow = 24;
constexpr int64_t kExperts = 3;

// A mixture whose experts 1 and 2 were trained on texts 1 and 2, rows small
// and random.
struct Mixture {
  explicit Mixture(Block block) {
    const model::ModelConfig dense = toy::Config(block);
    OwnedModel start = InitialModel(dense, 3);
    TrainOptions options;
    options.steps = 40;
    options.batch_sequences = 4;
    options.sequence_tokens = kWindow;
    options.learning_rate = 1e-2;
    EXPECT_TRUE(
        TrainDense(start, toy::Windows(12, 9, kWindow), options, nullptr).ok());
    owned.push_back(CopyModel(dense, start.weights));
    for (const uint64_t text : {1, 2}) {
      OwnedModel own = CopyModel(dense, start.weights);
      TrainOptions ffns = options;
      ffns.freeze = {"*embed*", "*self_attn*", "*norm*", "*lm_head*"};
      const auto trained =
          TrainDense(own, toy::Windows(12, text, kWindow), ffns, nullptr);
      EXPECT_TRUE(trained.ok()) << trained.status();
      owned.push_back(std::move(own));
    }
    config = dense;
    config.experts = kExperts;
    config.experts_per_token = 2;
    weights = owned[0].weights;
    for (int64_t l = 0; l < config.layers; ++l) {
      model::LayerWeights& layer = weights.layers[l];
      layer.experts.clear();
      for (const OwnedModel& m : owned) {
        layer.experts.push_back(m.weights.layers[l].experts[0]);
      }
      rows.push_back(std::make_unique<float[]>(kExperts * config.width));
      layer.router.data = rows.back().get();
      layer.router.shape = {kExperts, config.width};
      for (int64_t i = 0; i < layer.router.size(); ++i) {
        layer.router.f32()[i] = static_cast<float>(
            0.02 * Normal(77 + static_cast<uint64_t>(l),
                          static_cast<uint64_t>(i)));
      }
    }
  }
  model::Decoder Decoder(model::Router router = {}) const {
    if (config.block == Block::kPreNorm) router.renormalise = true;
    auto decoder = model::Decoder::Create(config, weights, router);
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    return *std::move(decoder);
  }
  model::ModelConfig config;
  model::ModelWeights weights;
  std::vector<OwnedModel> owned;
  std::vector<std::unique_ptr<float[]>> rows;
};

TokenWindows Both() {
  std::vector<std::string> documents = toy::Documents(12, 1);
  for (std::string& d : toy::Documents(12, 2)) documents.push_back(d);
  return TokenWindows(toy::Letters(), documents, 26, kWindow);
}

RouterOptions Options() {
  RouterOptions options;
  options.steps = 30;
  options.batch_sequences = 6;
  options.sequence_tokens = kWindow;
  options.learning_rate = 2e-2;
  options.router_z_weight = 1e-3;
  return options;
}

std::vector<float> Bits(const RouterRows& rows) {
  std::vector<float> bits;
  for (const math::Tensor& t : rows.ffn) {
    bits.insert(bits.end(), t.f32(), t.f32() + t.size());
  }
  return bits;
}

double LossOf(const model::Decoder& decoder, const RouterRows& rows) {
  const auto view = TuningDecoder(decoder, rows, {}, nullptr);
  EXPECT_TRUE(view.ok()) << view.status();
  const TokenWindows text = Both();
  std::vector<std::span<const int32_t>> all;
  for (int64_t i = 0; i < text.count(); ++i) all.push_back(text.at(i));
  return Evaluate(*view, all, {}).cross_entropy;
}

class RouterRunTest : public testing::TestWithParam<Block> {
 protected:
  const Mixture mixture_{GetParam()};
};

TEST_P(RouterRunTest, RowsLearnAndNothingElseMoves) {
  const model::Decoder decoder = mixture_.Decoder();
  std::vector<std::vector<float>> before;
  for (const OwnedModel& m : mixture_.owned) before.push_back(toy::Bits(m));
  const RouterRows start = CopyRows(decoder);
  TrainResult result;
  const auto rows =
      TuneRouters(decoder, Both(), Options(), nullptr, &result);
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_LT(LossOf(decoder, *rows), LossOf(decoder, start) - 0.02);
  EXPECT_EQ(result.steps, 30);
  EXPECT_EQ(Bits(CopyRows(decoder)), Bits(start)) << "the decoder's own";
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(toy::Bits(mixture_.owned[i]), before[i]);
  }
  // Only rows are on the tape: gradients and moments of so many numbers.
  const int64_t numbers =
      mixture_.config.layers * kExperts * mixture_.config.width;
  EXPECT_EQ(result.memory.trained, 3 * numbers * int64_t{sizeof(float)});
}

// Beside a shared base one expert is enough: its weight is not 1.
TEST_P(RouterRunTest, RowsLearnBesideASharedBase) {
  model::Router router;
  router.k = 1;
  router.shared = true;
  const model::Decoder decoder = mixture_.Decoder(router);
  const RouterRows start = CopyRows(decoder);
  RouterOptions options = Options();
  options.load_balance_weight = 0.01;
  const auto rows = TuneRouters(decoder, Both(), options, nullptr, nullptr);
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_LT(LossOf(decoder, *rows), LossOf(decoder, start) - 0.02);
}

TEST_P(RouterRunTest, StoppedAndResumedIsUnbroken) {
  for (const Choice choice :
       {Choice::kServed, Choice::kSwitch, Choice::kSample}) {
    SCOPED_TRACE(static_cast<int>(choice));
    const model::Decoder decoder = mixture_.Decoder();
    RouterOptions options = Options();
    options.choice = choice;
    options.load_balance_weight = 0.01;
    options.accumulation = 2;
    options.steps = 9;
    const auto whole = TuneRouters(decoder, Both(), options, nullptr, nullptr);
    ASSERT_TRUE(whole.ok()) << whole.status();
    EXPECT_NE(Bits(*whole), Bits(CopyRows(decoder)));
    options.checkpoint_path = toy::FreshPath("rows.checkpoint");
    options.checkpoint_every = 2;
    const auto stopped = TuneRouters(
        decoder, Both(), options,
        [](const TrainProgress& p) { return p.step < 5; }, nullptr);
    EXPECT_TRUE(absl::IsCancelled(stopped.status())) << stopped.status();
    int64_t first = 0;
    const auto resumed = TuneRouters(
        decoder, Both(), options,
        [&](const TrainProgress& p) {
          if (first == 0) first = p.step;
          return true;
        },
        nullptr);
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_EQ(first, 6);
    EXPECT_EQ(Bits(*resumed), Bits(*whole));
    options.load_balance_weight = 0.02;
    const auto other =
        TuneRouters(decoder, Both(), options, nullptr, nullptr);
    EXPECT_THAT(std::string(other.status().message()),
                HasSubstr("load_balance_weight"));
  }
}

// One seed, one draw; another seed, another.
TEST_P(RouterRunTest, SampledChoicesFollowTheSeed) {
  const model::Decoder decoder = mixture_.Decoder();
  RouterOptions options = Options();
  options.steps = 3;
  options.choice = Choice::kSample;
  options.load_balance_weight = 0.01;
  // All text in every batch, so that the seed is of the draws alone.
  options.batch_sequences = Both().count();
  const auto one = TuneRouters(decoder, Both(), options, nullptr, nullptr);
  const auto again = TuneRouters(decoder, Both(), options, nullptr, nullptr);
  options.seed = 2;
  const auto other = TuneRouters(decoder, Both(), options, nullptr, nullptr);
  ASSERT_TRUE(one.ok() && again.ok() && other.ok()) << one.status();
  EXPECT_EQ(Bits(*one), Bits(*again));
  EXPECT_NE(Bits(*one), Bits(*other));
}

// METHODS 7: shares are of all pieces so far, so that the last piece of a
// batch is judged by the whole batch's.
TEST_P(RouterRunTest, LoadBalanceAddsUpOverThePiecesOfABatch) {
  const model::Decoder decoder = mixture_.Decoder();
  const TokenWindows text = Both();
  std::vector<std::span<const int32_t>> batch;
  for (int64_t i = 0; i < 4; ++i) batch.push_back(text.at(i));
  StepOptions options;
  options.load_balance_weight = 0.5;
  options.load_balance_counts = true;
  const StepResult whole = Evaluate(decoder, batch, options);
  EXPECT_NEAR(whole.loss, whole.cross_entropy + 0.5 * whole.load_balance,
              1e-6);
  // The same by hand, from the router's logits and choices.
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, math::Product::kLibrary);
  std::vector<model::SequenceInput> inputs;
  for (const auto ids : batch) inputs.push_back({ids});
  const model::Batch rows(inputs);
  model::Trace trace;
  decoder.Forward(exec, rows, &trace);
  const auto by_hand = [&](int64_t from, int64_t to, int64_t first) {
    double sum = 0;
    for (size_t l = 0; l < trace.routing.size(); ++l) {
      std::vector<double> u(kExperts), p(kExperts);
      double choices = 0;
      const math::Tensor& idx = trace.routing[l].idx;
      for (int64_t i = first * idx.cols(); i < to * idx.cols(); ++i) {
        u[static_cast<size_t>(idx.i32()[i])] += 1;
        choices += 1;
      }
      for (int64_t m = from; m < to; ++m) {
        double z = 0;
        const float* x = trace.router_logits[l].f32() + m * kExperts;
        for (int64_t e = 0; e < kExperts; ++e) z += std::exp(x[e]);
        for (size_t e = 0; e < kExperts; ++e) p[e] += std::exp(x[e]) / z;
      }
      for (size_t e = 0; e < kExperts; ++e) {
        sum += kExperts * u[e] / choices * p[e] /
               static_cast<double>(to - from);
      }
    }
    return sum;
  };
  EXPECT_NEAR(whole.load_balance, by_hand(0, rows.rows(), 0), 1e-5);
  options.accumulation = 2;
  const StepResult pieces = Evaluate(decoder, batch, options);
  const int64_t half = rows.rows() / 2;
  EXPECT_NEAR(pieces.load_balance,
              (by_hand(0, half, 0) + by_hand(half, rows.rows(), 0)) / 2, 1e-5);
}

TEST_P(RouterRunTest, RefusesWhatCouldNotLearn) {
  const auto refusal = [&](const model::Decoder& decoder,
                           const RouterOptions& options) {
    const auto rows = TuneRouters(decoder, Both(), options, nullptr, nullptr);
    EXPECT_FALSE(rows.ok());
    return std::string(rows.status().message());
  };
  RouterOptions options = Options();
  options.k = 1;
  EXPECT_THAT(refusal(mixture_.Decoder(), options),
              HasSubstr("top-1 whose weight does not depend on its row"));
  model::Router top_p;
  top_p.kind = model::Router::Kind::kTopP;
  options.k = 2;
  EXPECT_THAT(refusal(mixture_.Decoder(top_p), options),
              HasSubstr("k = 2 for a router that is not top-k"));
  options.k = 0;
  options.steps = 0;
  EXPECT_THAT(refusal(mixture_.Decoder(top_p), options),
              HasSubstr("0 steps"));
  model::Router dense;
  const auto alone = model::Decoder::Create(
      mixture_.owned[0].config, mixture_.owned[0].weights, dense);
  ASSERT_TRUE(alone.ok());
  EXPECT_THAT(refusal(*alone, Options()), HasSubstr("a dense model"));
}

INSTANTIATE_TEST_SUITE_P(Blocks, RouterRunTest,
                         testing::Values(Block::kPostNorm, Block::kPreNorm),
                         [](const auto& info) {
                           return info.param == Block::kPostNorm ? "PostNorm"
                                                                 : "PreNorm";
                         });

}  // namespace
}  // namespace motet::learn
