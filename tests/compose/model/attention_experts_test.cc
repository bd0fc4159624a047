// SPDX-License-Identifier: Apache-2.0
// Attention experts beside what the exclusion and gradient tests show of
// them: identical ones are the dense model, the cache holds what the set
// needs, and what does not fit is refused by name.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "compose/model/decoder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compose/model/random_model.h"

namespace motet::model {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kExperts = 4;
constexpr Block kBlocks[] = {Block::kPreNorm, Block::kPostNorm,
                             Block::kParallel};
constexpr AttentionExperts kKinds[] = {AttentionExperts::kOwnKv,
                                       AttentionExperts::kSharedKv};

std::vector<float> Logits(const RandomModel& model, const Router& router,
                          math::ExpertMask allowed) {
  const auto decoder = Decoder::Create(model.config, model.weights, router);
  EXPECT_TRUE(decoder.ok()) << decoder.status();
  const std::vector<int32_t> ids = RandomModel::Text(model.config, 5, 40);
  math::Arena arena(1 << 16);
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  const SequenceInput input = {ids, nullptr, allowed};
  const Batch batch({&input, 1});
  const math::Tensor y = decoder->Logits(exec, decoder->Forward(exec, batch));
  return {y.f32(), y.f32() + y.size()};
}

// Whatever the routers say, as long as the weights sum to 1: those of soft
// attention do, and those of a renormalised choice of FFNs.
TEST(AttentionExpertsTest, IdenticalOnesAreTheDenseModel) {
  for (const Block block : kBlocks) {
    for (const AttentionExperts kind : kKinds) {
      RandomModel model =
          MakeRandomModel(block, kExperts, false, 8, false, kind);
      for (LayerWeights& layer : model.weights.layers) {
        std::fill(layer.experts.begin(), layer.experts.end(), layer.experts[0]);
        std::fill(layer.attention_experts.begin(),
                  layer.attention_experts.end(), layer.attention_experts[0]);
      }
      const RandomModel dense = Dense(model);
      const std::vector<float> want = Logits(dense, dense.top_k, 1);
      Router router = model.top_k;
      router.renormalise = true;
      float largest = 0;
      for (const float x : want) largest = std::max(largest, std::abs(x));
      for (const math::ExpertMask allowed : {0b1111, 0b1011, 0b0101, 0b0001}) {
        const std::vector<float> got = Logits(model, router, allowed);
        ASSERT_EQ(got.size(), want.size());
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_NEAR(got[i], want[i], 2e-5f * largest);
        }
      }
    }
  }
}

TEST(AttentionExpertsTest, TheCacheHoldsWhatTheSetNeeds) {
  const auto config = [](AttentionExperts kind) {
    return MakeRandomModel(Block::kPreNorm, kExperts, false, 8, false, kind)
        .config;
  };
  constexpr int64_t kCapacity = 100;
  const ModelConfig own = config(AttentionExperts::kOwnKv);
  const ModelConfig shared = config(AttentionExperts::kSharedKv);
  const int64_t one = own.layers * 2 * kCapacity * own.kv_heads * own.head_dim *
                      static_cast<int64_t>(sizeof(float));
  const int64_t rest = SequenceCache::Bytes(shared, kCapacity) - one;
  EXPECT_EQ(SequenceCache::Bytes(own, kCapacity), 4 * one + rest);
  EXPECT_EQ(SequenceCache::Bytes(own, kCapacity, 0b0001), one + rest);
  EXPECT_EQ(SequenceCache::Bytes(own, kCapacity, 0b1001), 2 * one + rest);
  // One k and v for all, whatever the set; bits beyond E mean nothing.
  EXPECT_EQ(SequenceCache::Bytes(shared, kCapacity, 0b1001), one + rest);
  EXPECT_EQ(SequenceCache::Bytes(own, kCapacity, 0b10001), one + rest);
}

using AttentionExpertsDeathTest = testing::Test;

// A set that its cache has no room for is a programmer's mistake, not a read
// of another expert's keys.
TEST(AttentionExpertsDeathTest, ACacheOfASmallerSetEndsTheProgram) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // OpenMP has threads
  const RandomModel model = MakeRandomModel(Block::kPreNorm, kExperts, false, 8,
                                            false, AttentionExperts::kOwnKv);
  const Decoder decoder =
      *Decoder::Create(model.config, model.weights, model.top_k);
  SequenceCache cache(model.config, 8, kExperts, 0b0011);
  const std::vector<int32_t> ids = {1, 2, 3};
  const SequenceInput input = {ids, &cache, 0b0111};
  math::Arena arena(1 << 16);
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  EXPECT_DEATH(decoder.Forward(exec, Batch({&input, 1})), "attentions_");
}

TEST(AttentionExpertsTest, WhatDoesNotFitIsRefusedByName) {
  RandomModel model = MakeRandomModel(Block::kPreNorm, kExperts, false, 8,
                                      false, AttentionExperts::kSharedKv);
  const auto refusal = [](const RandomModel& m) {
    const auto made = Decoder::Create(m.config, m.weights, m.top_k);
    return made.ok() ? std::string("accepted")
                     : std::string(made.status().message());
  };
  EXPECT_EQ(refusal(model), "accepted");
  RandomModel other = model;
  other.weights.layers[1].attention_experts.pop_back();
  EXPECT_THAT(refusal(other),
              HasSubstr("3 attention experts in layer 1 (want 4)"));
  other = model;
  other.weights.layers[0].attention_experts[2].q = math::Tensor{};
  other.weights.layers[2].attention_router.shape.dim[0] = 3;
  other.weights.layers[1].k = math::Tensor{};
  const std::string reasons = refusal(other);
  EXPECT_THAT(reasons, HasSubstr("layers.0.self_attn.experts.2.q_proj.weight "
                                 "absent"));
  EXPECT_THAT(reasons, HasSubstr("layers.2.self_attn.gate.weight of shape "
                                 "[3, 28] (want [4, 28])"));
  EXPECT_THAT(reasons, HasSubstr("layers.1.self_attn.k_proj.weight absent"));
  other = Dense(model);
  other.config.attention_experts = AttentionExperts::kOwnKv;
  EXPECT_THAT(refusal(other), HasSubstr("attention experts of a dense model"));
}

TEST(AttentionExpertsTest, NoFamilyHasThem) {
  const RandomModel model = MakeRandomModel(Block::kPreNorm, kExperts, false, 8,
                                            false, AttentionExperts::kOwnKv);
  EXPECT_EQ(Architecture(model.config), nullptr);
  EXPECT_THAT(std::string(CheckExport(model.config).message()),
              HasSubstr("attention experts"));
  ModelConfig parallel = Dense(model).config;
  EXPECT_TRUE(CheckExport(parallel).ok());
  parallel.block = Block::kParallel;
  EXPECT_THAT(std::string(CheckExport(parallel).message()),
              HasSubstr("a parallel block"));
}

}  // namespace
}  // namespace motet::model
