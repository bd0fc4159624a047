// SPDX-License-Identifier: Apache-2.0
// What the families add to the one decoder: QK-norm of both kinds, biases,
// windows, scaled RoPE, mixtures without a base. Each keeps the promise that
// a token's bits depend on its own text and expert set alone, and each does
// something.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "compose/model/decoder.h"
#include "gtest/gtest.h"
#include "tests/compose/model/random_model.h"

namespace motet::model {
namespace {

using math::ExpertMask;

struct Variant {
  const char* name;
  void (*change)(ModelConfig& config);
};

const Variant kVariants[] = {
    {"Plain", [](ModelConfig& c) {}},
    {"PostNorm", [](ModelConfig& c) {
       c.block = Block::kPostNorm;
       c.qk_norm = QkNorm::kWhole;
     }},
    {"WholeNorm", [](ModelConfig& c) { c.qk_norm = QkNorm::kWhole; }},
    {"HeadNorm", [](ModelConfig& c) { c.qk_norm = QkNorm::kPerHead; }},
    {"Bias", [](ModelConfig& c) { c.qkv_bias = true; }},
    {"Window", [](ModelConfig& c) { c.window = 9; }},
    {"LateWindow", [](ModelConfig& c) {
       c.window = 3;
       c.window_from = 1;
     }},
    {"ScaledRope", [](ModelConfig& c) { c.rope_scaling = {8, 1, 4, 16}; }},
    {"Mixture", [](ModelConfig& c) {
       c.qk_norm = QkNorm::kPerHead;
       c.window = 20;
       c.experts = 6;
       c.experts_per_token = 3;
     }},
    {"Mixture128", [](ModelConfig& c) {
       c.experts = 128;
       c.experts_per_token = 8;
       c.renormalise = true;
     }},
};

ModelConfig ConfigOf(const Variant& variant) {
  ModelConfig config;
  config.block = Block::kPreNorm;
  config.qk_norm = QkNorm::kNone;
  config.vocabulary = 61;
  config.width = 24;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 10;
  config.ffn_width = 20;
  config.max_positions = 200;
  config.rope_theta = 1e4;
  variant.change(config);
  return config;
}

ModelWeights WeightsOf(const ModelConfig& config, Storage& storage) {
  std::mt19937_64 random(7);
  ModelWeights weights;
  VisitWeights(config, weights,
               [&](const std::string& name, const math::Shape& shape,
                   math::Tensor& t) {
                 const bool norm =
                     shape.rank == 1 && name.find("bias") == std::string::npos;
                 t = storage.Normal(shape, shape.rank == 1 ? 0.3 : 0.4,
                                    norm ? 1 : 0, random);
               });
  return weights;
}

class FamiliesTest : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    config_ = ConfigOf(GetParam());
    weights_ = WeightsOf(config_, storage_);
    for (int i = 0; i < 70; ++i) ids_.push_back(i * i * 31 % 61);
  }
  std::vector<float> Logits(const Decoder& decoder, const math::Kernels& with,
                            std::span<const SequenceInput> inputs,
                            size_t which) {
    math::Arena arena(1 << 16);
    math::Exec exec(with, arena, math::Product::kExact);
    const Batch batch(inputs);
    const math::Tensor logits =
        decoder.Logits(exec, decoder.Forward(exec, batch));
    const math::Tensor own = logits.RowSlice(
        batch.first_row(which),
        static_cast<int64_t>(inputs[which].ids.size()));
    return {own.f32(), own.f32() + own.size()};
  }
  Decoder Make(const ModelConfig& config) {
    auto decoder = Decoder::Create(config, weights_, RouterOf(config));
    MOTET_CHECK(decoder.ok());
    return *std::move(decoder);
  }
  std::vector<float> Whole(const ModelConfig& config,
                           const math::Kernels& with = math::Cpu()) {
    const SequenceInput input = {ids_};
    return Logits(Make(config), with, {&input, 1}, 0);
  }
  Storage storage_;
  ModelConfig config_;
  ModelWeights weights_;
  std::vector<int32_t> ids_;
};

TEST_P(FamiliesTest, ChunksAndCompanyMoveNoBit) {
  const Decoder decoder = Make(config_);
  const std::vector<float> want = Whole(config_);
  for (const size_t chunk : {1, 5, 32, 64}) {
    const int64_t experts = std::max<int64_t>(config_.experts, 1);
    SequenceCache cache(config_, 70, experts), other(config_, 70, experts);
    std::vector<float> got;
    for (size_t at = 0; at < ids_.size(); at += chunk) {
      const size_t n = std::min(chunk, ids_.size() - at);
      const SequenceInput inputs[] = {
          {std::span(ids_).subspan(70 - n), &other},
          {std::span(ids_).subspan(at, n), &cache},
          {std::span(ids_).subspan(3, 11)}};
      const std::vector<float> part =
          Logits(decoder, math::Cpu(), inputs, 1);
      got.insert(got.end(), part.begin(), part.end());
    }
    EXPECT_EQ(got, want) << "chunk " << chunk;
  }
}

TEST_P(FamiliesTest, FastFormsAgreeWithPlainOnes) {
  const std::vector<float> fast = Whole(config_);
  const std::vector<float> plain = Whole(config_, math::Reference());
  float largest = 0;
  for (const float x : plain) largest = std::max(largest, std::abs(x));
  for (size_t i = 0; i < fast.size(); ++i) {
    ASSERT_NEAR(fast[i], plain[i], 2e-4 * largest) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, FamiliesTest, testing::ValuesIn(kVariants),
                         [](const auto& info) { return info.param.name; });

class WindowTest : public FamiliesTest {};

// A text shorter than the window is answered as without one, a longer one is
// not, and what lies before the windows of all layers cannot matter.
TEST_P(WindowTest, HidesWhatLiesBefore) {
  ModelConfig wide = config_;
  wide.window = 0;
  const std::vector<float> got = Whole(config_), all = Whole(wide);
  const int64_t same = config_.window * config_.vocabulary;
  EXPECT_TRUE(std::equal(got.begin(), got.begin() + same, all.begin()));
  EXPECT_FALSE(std::equal(got.begin() + same, got.end(), all.begin() + same));
  wide.window = 70;
  EXPECT_EQ(Whole(wide), all);
  if (config_.window_from > 0) return;
  const int64_t reach = config_.layers * (config_.window - 1);
  ids_[0] = (ids_[0] + 1) % 61;
  const std::vector<float> other = Whole(config_);
  const int64_t hidden = (reach + 1) * config_.vocabulary;
  EXPECT_TRUE(
      std::equal(got.begin() + hidden, got.end(), other.begin() + hidden));
  EXPECT_NE(got, other);
}

INSTANTIATE_TEST_SUITE_P(All, WindowTest,
                         testing::Values(kVariants[5], kVariants[6]),
                         [](const auto& info) { return info.param.name; });

// Every set of four experts, the one with number 0 among those left out.
TEST(MixtureTest, AnyExpertCanBeLeftOutOfAnImportedMixture) {
  const RandomModel model = MakeRandomModel(Block::kPreNorm, 4, false, 5);
  const std::vector<int32_t> text = RandomModel::Text(model.config, 1, 40);
  const auto logits = [&](const RandomModel& of, ExpertMask allowed,
                          bool base_always) {
    Router router = of.top_k;
    router.base_always = base_always;
    auto decoder = Decoder::Create(of.config, of.weights, router);
    MOTET_CHECK(decoder.ok());
    math::Arena arena(1 << 16);
    math::Exec exec(math::Cpu(), arena, math::Product::kExact);
    const SequenceInput input = {text, nullptr, allowed};
    const Batch batch({&input, 1});
    const math::Tensor t =
        decoder->Logits(exec, decoder->Forward(exec, batch));
    return std::vector<float>(t.f32(), t.f32() + t.size());
  };
  for (ExpertMask set = 1; set < 16; ++set) {
    std::vector<int> experts;
    for (int e = 0; e < 4; ++e) {
      if ((set >> e & 1) != 0) experts.push_back(e);
    }
    RandomModel built = BuildFrom(model, experts);
    built.config.ffn_width =
        model.weights.layers[0].experts[experts[0]].gate.rows();
    const std::vector<float> want = logits(built, ~ExpertMask{0}, false);
    EXPECT_EQ(logits(model, set, false), want) << static_cast<int>(set);
    // With a base that is always there, number 0 comes back.
    EXPECT_EQ(logits(model, set, true), logits(model, set | 1, false));
    if ((set & 1) == 0) {
      EXPECT_NE(logits(model, set, true), want);
    }
  }
}

TEST(MixtureTest, ExpertsBeyond64AreChosenAndLeftOut) {
  const ModelConfig config = ConfigOf(kVariants[9]);
  Storage storage;
  const ModelWeights weights = WeightsOf(config, storage);
  auto decoder = Decoder::Create(config, weights, RouterOf(config));
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  std::vector<int32_t> ids(50);
  for (int i = 0; i < 50; ++i) ids[i] = i;
  const ExpertMask high = ~math::FirstExperts(100);
  for (const ExpertMask allowed : {~ExpertMask{0}, high}) {
    math::Arena arena(1 << 16);
    math::Exec exec(math::Cpu(), arena, math::Product::kExact);
    const SequenceInput input = {ids, nullptr, allowed};
    const Batch batch({&input, 1});
    Trace trace;
    decoder->Forward(exec, batch, &trace);
    int above = 0, below = 0;
    for (const math::Routing& routing : trace.routing) {
      for (int64_t i = 0; i < routing.idx.size(); ++i) {
        ++(routing.idx.i32()[i] >= 100 ? above : below);
      }
    }
    EXPECT_GT(above, 0);
    EXPECT_EQ(below == 0, allowed == high);
  }
}

}  // namespace
}  // namespace motet::model
