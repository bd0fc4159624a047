// SPDX-License-Identifier: Apache-2.0
// Training of an embedding adapter: the loss and its gradients against finite
// differences, which documents are negatives, and runs that end with the same
// bits whatever threads and interruptions they had. PyTorch's numbers are in
// tests/golden and tests/peers/peft_train.py.
#include "compose/learn/adapter_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <filesystem>
#include <memory>
#include <numeric>
#include <random>
#include <set>

#include "compose/learn/hash.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

using math::Tensor;
using testing::HasSubstr;

model::EncoderConfig Config() {
  model::EncoderConfig config;
  config.vocabulary = 40;
  config.width = 16;
  config.layers = 2;
  config.heads = 2;
  config.ffn_width = 24;
  config.max_positions = 32;
  config.token_types = 2;
  return config;
}

// A random encoder, and queries of random ids with random documents.
struct Toy {
  explicit Toy(int64_t queries = 60, bool normalise = true) {
    const model::EncoderConfig config = Config();
    model::VisitEncoderWeights(
        config, weights,
        [&](const std::string& name, const math::Shape& shape, Tensor& t) {
          std::vector<float>& values = storage.emplace_back();
          for (int64_t i = 0; i < shape.size(); ++i) {
            const bool norm =
                name.find("LayerNorm.weight") != std::string::npos;
            values.push_back((norm ? 1.0f : 0.0f) + 0.3f * Normal());
          }
          t = {values.data(), math::DType::kF32, math::Device::kCpu, shape};
        });
    auto made = model::Encoder::Create(config, weights, normalise);
    EXPECT_TRUE(made.ok()) << made.status();
    encoder = std::make_unique<model::Encoder>(*std::move(made));
    const int64_t documents = queries + 20;
    for (int64_t i = 0; i < documents * config.width; ++i) {
      vectors.push_back(Normal());
    }
    data.documents = vectors;
    for (int64_t q = 0; q < queries; ++q) {
      std::vector<int32_t>& ids = data.queries.emplace_back();
      for (int64_t t = Below(8) + 3; t > 0; --t) {
        ids.push_back(static_cast<int32_t>(Below(config.vocabulary)));
      }
      data.relevant.push_back({q});
      if (q % 3 == 0) data.relevant.back().push_back(q + 1);
      std::vector<int64_t>& hard = data.hard.emplace_back();
      for (int64_t h = 0; h < 6; ++h) hard.push_back(queries + h * 3);
    }
  }
  float Normal() { return std::normal_distribution<float>()(random); }
  int64_t Below(int64_t n) {
    return std::uniform_int_distribution<int64_t>(0, n - 1)(random);
  }
  std::mt19937_64 random{5};
  std::deque<std::vector<float>> storage;
  model::EncoderWeights weights;
  std::unique_ptr<model::Encoder> encoder;
  std::vector<float> vectors;
  AdapterData data;
};

AdapterOptions Options() {
  AdapterOptions options;
  options.steps = 12;
  options.batch_queries = 24;
  options.rank = 3;
  options.alpha = 6;
  options.learning_rate = 1e-2;
  options.hard_negatives = 2;
  return options;
}

std::vector<float> Bits(const OwnedLora& lora) {
  std::vector<float> bits;
  for (const Parameter& p : AdapterParameters(Config(), lora.lora)) {
    bits.insert(bits.end(), p.value.f32(), p.value.f32() + p.value.size());
  }
  return bits;
}

// An adapter whose B is not zero.
OwnedLora Moved(const model::LoraConfig& config, Toy& toy) {
  OwnedLora owned = InitialLora(Config(), config, 3);
  for (const Parameter& p : AdapterParameters(Config(), owned.lora)) {
    Tensor value = p.value;
    for (int64_t i = 0; i < value.size(); ++i) {
      value.f32()[i] += 0.2f * toy.Normal();
    }
  }
  return owned;
}

TEST(ContrastiveLossTest, IsThePlainFormulaAndSoIsItsGradient) {
  Toy toy(2);
  const int64_t rows = 5, cols = 7;
  std::vector<float> values;
  for (int64_t i = 0; i < rows * cols; ++i) values.push_back(toy.Normal());
  const Tensor scores = {values.data(), math::DType::kF32,
                         math::Device::kCpu, {rows, cols}};
  std::vector<int32_t> targets = {0, 3, 6, 3, 2};
  std::vector<uint8_t> masked(rows * cols, 0);
  for (int64_t i = 0; i < rows * cols; i += 4) {
    if (i % cols != targets[static_cast<size_t>(i / cols)]) masked[i] = 1;
  }
  const double t = 0.7;
  const auto plain = [&] {
    double loss = 0;
    for (int64_t m = 0; m < rows; ++m) {
      double total = 0;
      for (int64_t j = 0; j < cols; ++j) {
        if (masked[m * cols + j] == 0) {
          total += std::exp(values[m * cols + j] / t);
        }
      }
      loss += std::log(total) - values[m * cols + targets[m]] / t;
    }
    return loss / 9;  // rows of a batch of 9
  };
  std::vector<float> gradient(rows * cols, 1.0f);  // accumulates
  const Tensor d = {gradient.data(), math::DType::kF32, math::Device::kCpu,
                    {rows, cols}};
  EXPECT_NEAR(ContrastiveLoss(scores, targets, masked, t, 9, d), plain(),
              1e-12);
  for (int64_t i = 0; i < rows * cols; ++i) {
    const float kept = values[i];
    values[i] = kept + 1e-3f;
    const double above = plain();
    values[i] = kept - 1e-3f;
    const double below = plain();
    values[i] = kept;
    EXPECT_NEAR(gradient[i] - 1, (above - below) / 2e-3, 1e-4) << i;
    if (masked[i] != 0) {
      EXPECT_EQ(gradient[i], 1.0f) << i;
    }
  }
}

class AdapterGradientTest : public testing::TestWithParam<bool> {};

// Through the whole encoder, with dropout, in pieces.
TEST_P(AdapterGradientTest, IsThatOfTheLoss) {
  Toy toy(60, GetParam());
  AdapterOptions options = Options();
  options.batch_queries = 60;  // some pieces
  model::LoraConfig config = {3, 6, 0.2, {"dense", "query", "value"}};
  const OwnedLora owned = Moved(config, toy);
  Tensor documents = {toy.vectors.data(), math::DType::kF32,
                      math::Device::kCpu, {80, 16}};
  AdapterStepOptions step;
  step.temperature = 0.5;
  AdapterStepper stepper(*toy.encoder, owned.lora, documents, step);
  const AdapterBatch batch = AdapterBatchAt(toy.data, options, 0);
  stepper.Gradients(batch, 7);
  std::vector<std::vector<float>> gradients;
  for (const auto& item : stepper.optimizer().items()) {
    gradients.emplace_back(item.gradient.f32(),
                           item.gradient.f32() + item.gradient.size());
  }
  double largest = 0, moved = 0;
  for (const auto& g : gradients) {
    for (float x : g) largest = std::max(largest, std::abs(double{x}));
  }
  ASSERT_GT(largest, 0);
  const auto& items = stepper.optimizer().items();
  for (size_t p = 0; p < items.size(); ++p) {
    Tensor value = items[p].parameter.value;
    for (int tries = 0; tries < 4; ++tries) {
      const int64_t i = toy.Below(value.size());
      const float kept = value.f32()[i];
      value.f32()[i] = kept + 1e-2f;
      const double above = stepper.Gradients(batch, 7).loss;
      value.f32()[i] = kept - 1e-2f;
      const double below = stepper.Gradients(batch, 7).loss;
      value.f32()[i] = kept;
      EXPECT_NEAR(gradients[p][i], (above - below) / 2e-2, 5e-3 * largest)
          << items[p].parameter.name << " " << i;
      moved += std::abs(above - below);
    }
  }
  EXPECT_GT(moved, 0);
}

INSTANTIATE_TEST_SUITE_P(Normalised, AdapterGradientTest, testing::Bool());

TEST(AdapterStepTest, NoiseMovesTheLossAndItsSeedDecides) {
  Toy toy;
  const OwnedLora owned = Moved({3, 6, 0.5, {"query", "value"}}, toy);
  const Tensor documents = {toy.vectors.data(), math::DType::kF32,
                            math::Device::kCpu, {80, 16}};
  AdapterStepper stepper(*toy.encoder, owned.lora, documents, {});
  const AdapterBatch batch = AdapterBatchAt(toy.data, Options(), 0);
  const double quiet = stepper.Gradients(batch, {}).loss;
  const double one = stepper.Gradients(batch, 1).loss;
  EXPECT_NE(quiet, one);
  EXPECT_NE(one, stepper.Gradients(batch, 2).loss);
  EXPECT_EQ(one, stepper.Gradients(batch, 1).loss);
  EXPECT_EQ(quiet, stepper.Gradients(batch, {}).loss);
}

TEST(AdapterBatchTest, EveryQueryComesOnceARound) {
  Toy toy(60);
  const AdapterOptions options = Options();  // 24 a step
  std::multiset<const int32_t*> seen;
  std::vector<const int32_t*> first_round, second_round;
  for (int64_t step = 0; step < 5; ++step) {  // 120 queries: two rounds
    for (const auto& q : AdapterBatchAt(toy.data, options, step).queries) {
      seen.insert(q.data());
      (seen.size() <= 60 ? first_round : second_round).push_back(q.data());
    }
  }
  for (const auto& ids : toy.data.queries) {
    EXPECT_EQ(seen.count(ids.data()), 2u);
  }
  EXPECT_NE(first_round, second_round);
}

TEST(AdapterBatchTest, WhatIsRelevantIsNoNegative) {
  Toy toy(60);
  AdapterOptions options = Options();
  options.batch_queries = 60;
  const AdapterBatch batch = AdapterBatchAt(toy.data, options, 0);
  const size_t cols = batch.columns.size();
  // Distinct, hard ones among them.
  EXPECT_EQ(std::set<int64_t>(batch.columns.begin(), batch.columns.end())
                .size(),
            cols);
  EXPECT_GT(*std::max_element(batch.columns.begin(), batch.columns.end()), 60);
  int64_t masked = 0;
  for (size_t i = 0; i < batch.queries.size(); ++i) {
    const auto at = std::find_if(
        toy.data.queries.begin(), toy.data.queries.end(), [&](const auto& q) {
          return q.data() == batch.queries[i].data();
        });
    const auto& relevant =
        toy.data.relevant[static_cast<size_t>(at - toy.data.queries.begin())];
    const auto is_relevant = [&](int64_t row) {
      return std::find(relevant.begin(), relevant.end(), row) !=
             relevant.end();
    };
    EXPECT_TRUE(is_relevant(batch.columns[batch.targets[i]]));
    for (size_t j = 0; j < cols; ++j) {
      const bool gone = batch.masked[i * cols + j] != 0;
      EXPECT_EQ(gone, is_relevant(batch.columns[j]) &&
                          static_cast<int32_t>(j) != batch.targets[i]);
      masked += gone;
    }
  }
  EXPECT_GT(masked, 0);
}

TEST(AdapterBatchTest, OfOneSetEachByItsShare) {
  Toy toy(60);
  toy.data.sets = {40, 20};
  AdapterOptions options = Options();
  options.batch_queries = 10;
  options.one_set_a_batch = true;
  std::vector<int64_t> batches(2, 0);
  for (int64_t step = 0; step < 12; ++step) {
    std::set<bool> sets;
    for (const auto& q : AdapterBatchAt(toy.data, options, step).queries) {
      int64_t at = 0;
      while (toy.data.queries[static_cast<size_t>(at)].data() != q.data()) {
        ++at;
      }
      sets.insert(at >= 40);
    }
    ASSERT_EQ(sets.size(), 1u);
    ++batches[*sets.begin() ? 1 : 0];
  }
  EXPECT_EQ(batches, (std::vector<int64_t>{8, 4}));
}

TEST(AdapterRunTest, LearnsAndEndsWithTheSameBits) {
  Toy toy;
  AdapterOptions options = Options();
  options.steps = 60;
  options.temperature = 0.2;
  TrainResult result;
  const auto trained =
      TrainAdapter(*toy.encoder, toy.data, options, nullptr, &result);
  ASSERT_TRUE(trained.ok()) << trained.status();
  EXPECT_EQ(result.steps, 60);
  EXPECT_GT(result.tokens, 60 * 24 * 3);
  ASSERT_FALSE(result.loss_curve.empty());
  EXPECT_LT(result.loss_curve.back(), 0.9 * result.loss_curve.front());

  const int threads = math::Threads();
  math::SetThreads(1);
  const auto alone =
      TrainAdapter(*toy.encoder, toy.data, options, nullptr, nullptr);
  math::SetThreads(3);
  const auto three =
      TrainAdapter(*toy.encoder, toy.data, options, nullptr, nullptr);
  math::SetThreads(threads);
  ASSERT_TRUE(alone.ok() && three.ok());
  EXPECT_EQ(Bits(*alone), Bits(*trained));
  EXPECT_EQ(Bits(*three), Bits(*trained));
  options.seed = 2;
  const auto other =
      TrainAdapter(*toy.encoder, toy.data, options, nullptr, nullptr);
  ASSERT_TRUE(other.ok());
  EXPECT_NE(Bits(*other), Bits(*trained));
}

TEST(AdapterRunTest, StoppedRunsGoOnToTheSameBits) {
  Toy toy;
  AdapterOptions options = Options();
  TrainResult all, in_parts;
  const auto whole =
      TrainAdapter(*toy.encoder, toy.data, options, nullptr, &all);
  ASSERT_TRUE(whole.ok()) << whole.status();
  options.checkpoint_path = toy::FreshPath("adapter.safetensors");
  options.checkpoint_every = 4;
  int64_t first = 0;
  const auto until = [&](int64_t stop) {
    first = 0;
    return TrainAdapter(
        *toy.encoder, toy.data, options,
        [&, stop](const TrainProgress& p) {
          if (first == 0) first = p.step;
          return p.step < stop;
        },
        &in_parts);
  };
  EXPECT_TRUE(absl::IsCancelled(until(3).status()));
  EXPECT_TRUE(absl::IsCancelled(until(9).status()));
  EXPECT_EQ(first, 4);
  // Another run's checkpoint is no checkpoint of this one.
  options.temperature *= 2;
  EXPECT_THAT(std::string(until(20).status().message()),
              HasSubstr("temperature"));
  options.temperature /= 2;
  toy.data.relevant[5] = {7};
  EXPECT_THAT(std::string(until(20).status().message()), HasSubstr("data ="));
  toy.data.relevant[5] = {5};
  const auto resumed = until(20);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(first, 10);
  EXPECT_EQ(Bits(*resumed), Bits(*whole));
  EXPECT_EQ(in_parts.tokens, all.tokens);
  std::filesystem::remove(options.checkpoint_path);
}

TEST(AdapterRunTest, SaysEverythingThatIsWrong) {
  Toy toy;
  AdapterOptions options = Options();
  options.steps = 0;
  options.batch_queries = 1;
  options.dropout = 1;
  options.temperature = 0;
  toy.data.relevant[3] = {200};
  toy.data.queries[2] = {5, 99};
  const auto trained =
      TrainAdapter(*toy.encoder, toy.data, options, nullptr, nullptr);
  ASSERT_FALSE(trained.ok());
  for (const char* part :
       {"0 steps", "batches of 1", "dropout 1", "temperature 0",
        "documents of query 3", "query 2", "token id 99"}) {
    EXPECT_THAT(std::string(trained.status().message()), HasSubstr(part));
  }
  options = Options();
  toy.data.relevant[3] = {3};
  toy.data.queries[2] = {5};
  options.targets = {"nothing"};
  EXPECT_FALSE(
      TrainAdapter(*toy.encoder, toy.data, options, nullptr, nullptr).ok());
}

}  // namespace
}  // namespace motet::learn
