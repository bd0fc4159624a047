// SPDX-License-Identifier: Apache-2.0
// The weights table and what Decoder::Create accepts; the owner bias; what a
// forward pass leaves in the cache and in the arena. Numbers against an
// independent implementation are in tests/golden.
#include "compose/model/decoder.h"

#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compose/model/random_model.h"

namespace motet::model {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Refusal(const ModelConfig& config, const ModelWeights& weights,
                    const Router& router) {
  const auto decoder = Decoder::Create(config, weights, router);
  if (decoder.ok()) return "accepted";
  EXPECT_EQ(decoder.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(decoder.status().message());
}

// The shapes of the golden models, whose parameters transformers counted.
ModelConfig Golden(Block block, int64_t experts) {
  ModelConfig config;
  config.block = block;
  if (block == Block::kPreNorm) config.qk_norm = QkNorm::kNone;
  config.vocabulary = 331;
  config.width = 48;
  config.layers = 3;
  config.heads = 6;
  config.kv_heads = 2;
  config.head_dim = 8;
  config.ffn_width = 100;
  config.max_positions = 128;
  config.experts = experts;
  config.experts_per_token = experts == 0 ? 0 : 2;
  return config;
}

TEST(WeightsTest, CountsAsTransformersDoes) {
  EXPECT_EQ(CountParameters(Golden(Block::kPreNorm, 0)), 93744);
  EXPECT_EQ(CountParameters(Golden(Block::kPostNorm, 0)), 93936);
  EXPECT_EQ(CountParameters(Golden(Block::kPostNorm, 4)), 224112);
  EXPECT_EQ(CountParameters(Golden(Block::kPreNorm, 4)), 223920);
  ModelConfig tied = Golden(Block::kPreNorm, 0);
  tied.tied_head = true;
  tied.kv_heads = 6;
  EXPECT_EQ(CountParameters(tied), 87072);
}

TEST(WeightsTest, NamesEveryTensorOnce) {
  for (Block block : {Block::kPreNorm, Block::kPostNorm}) {
    for (int64_t experts : {0, 1, 4}) {
      const ModelConfig config = Golden(block, experts);
      ModelWeights weights;
      std::set<std::string> names;
      int64_t visits = 0;
      VisitWeights(
          config, weights,
          [&](const std::string& name, const math::Shape&, math::Tensor&) {
            names.insert(name);
            ++visits;
          });
      EXPECT_EQ(static_cast<int64_t>(names.size()), visits);
      const int64_t norms = block == Block::kPostNorm ? 4 : 2;
      const int64_t ffn = experts == 0 ? 3 : 1 + 3 * experts;
      EXPECT_EQ(visits, 3 + 3 * (4 + norms + ffn));
      EXPECT_EQ(names.contains("model.layers.2.self_attn.q_norm.weight"),
                block == Block::kPostNorm);
    }
  }
}

TEST(DecoderCreateTest, ListsEveryTensorThatDoesNotFit) {
  const RandomModel model = MakeRandomModel(Block::kPostNorm, 3, false, 1);
  EXPECT_EQ(Refusal(model.config, model.weights, model.top_k), "accepted");
  ModelWeights weights = model.weights;
  weights.layers[1].q = math::Tensor{};
  weights.layers[2].experts[1].up.shape.dim[0] += 1;
  weights.layers[0].k_norm = model.storage->ToBf16(weights.layers[0].k_norm);
  weights.head.shape = {weights.head.shape.dim[0], 1};
  const std::string refusal = Refusal(model.config, weights, model.top_k);
  EXPECT_THAT(refusal,
              HasSubstr("model.layers.1.self_attn.q_proj.weight absent"));
  EXPECT_THAT(refusal, HasSubstr("model.layers.2.mlp.experts.1.up_proj"));
  EXPECT_THAT(refusal, HasSubstr("model.layers.0.self_attn.k_norm.weight of "
                                 "dtype BF16 (want F32)"));
  EXPECT_THAT(refusal, HasSubstr("lm_head.weight of shape [83, 1] (want "
                                 "[83, 28])"));
  EXPECT_THAT(refusal, Not(HasSubstr("layers.1.self_attn.k_proj")));
}

TEST(DecoderCreateTest, RefusesWeightsOfAnotherLayout) {
  const RandomModel model = MakeRandomModel(Block::kPostNorm, 3, false, 1);
  ModelWeights weights = model.weights;
  weights.layers.pop_back();
  EXPECT_THAT(Refusal(model.config, weights, model.top_k),
              HasSubstr("2 layers (want 3)"));
  weights = model.weights;
  weights.layers[1].experts.pop_back();
  EXPECT_THAT(Refusal(model.config, weights, model.top_k),
              HasSubstr("2 FFNs in layer 1 (want 3)"));
  // The base's FFN has the config's width, whatever the owners' have.
  weights = model.weights;
  std::swap(weights.layers[0].experts[0], weights.layers[0].experts[1]);
  EXPECT_THAT(Refusal(model.config, weights, model.top_k),
              HasSubstr("experts.0.gate_proj"));
  weights = model.weights;
  weights.layers[0].owner_bias = model.storage->Copy({0, 0, 0}, {3});
  EXPECT_THAT(Refusal(model.config, weights, model.top_k),
              HasSubstr("owner bias of layer 0"));
  EXPECT_THAT(Refusal(ModelConfig{}, model.weights, model.top_k),
              HasSubstr("[model config]"));
}

TEST(DecoderCreateTest, ATiedHeadIsTheEmbedding) {
  RandomModel model = Dense(MakeRandomModel(Block::kPreNorm, 2, false, 1));
  model.config.tied_head = true;
  EXPECT_THAT(Refusal(model.config, model.weights, model.top_k),
              HasSubstr("a head apart from the embedding"));
  model.weights.head = math::Tensor{};
  const auto decoder =
      Decoder::Create(model.config, model.weights, model.top_k);
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  EXPECT_EQ(decoder->weights().head.data, model.weights.embed.data);
}

TEST(DecoderCreateTest, RefusesARouterOfAnotherShape) {
  const RandomModel model = MakeRandomModel(Block::kPostNorm, 3, false, 1);
  Router router = model.top_k;
  router.k = 0;
  EXPECT_THAT(Refusal(model.config, model.weights, router), HasSubstr("k = 0"));
  router.k = 64;  // clamped to the experts
  EXPECT_EQ(Refusal(model.config, model.weights, router), "accepted");
  router = model.anchored;
  router.anchored.pop_back();
  EXPECT_THAT(Refusal(model.config, model.weights, router),
              HasSubstr("2 anchored layers (want 3)"));
  router = model.anchored;
  router.anchored[0].precision = math::Tensor{};
  router.anchored[1].select.shape.dim[0] = 2;
  router.anchored[2].smoothing = 1;
  const std::string refusal = Refusal(model.config, model.weights, router);
  EXPECT_THAT(refusal, HasSubstr("layer 0's precision absent"));
  EXPECT_THAT(refusal, HasSubstr("layer 1's selection vectors F32 [2, 28] "
                                 "(want F32 [3, 28])"));
  EXPECT_THAT(refusal, HasSubstr("layer 2's smoothing 1"));
  // A factor takes the precision's place, and must fit.
  router = model.anchored;
  math::Arena arena;
  router.anchored[0].precision = math::Tensor{};
  router.anchored[0].factor = arena.Zeros({2, model.config.width});
  EXPECT_EQ(Refusal(model.config, model.weights, router), "accepted");
  router.anchored[0].factor = arena.Zeros({2, 3});
  EXPECT_THAT(Refusal(model.config, model.weights, router),
              HasSubstr("layer 0's gate's factor F32 [2, 3]"));
  // Without the gate, what it needs may be absent.
  router = model.anchored;
  for (math::AnchoredLayer& layer : router.anchored) {
    layer.gate = false;
    layer.precision = layer.pair_mean = layer.threshold = math::Tensor{};
  }
  EXPECT_EQ(Refusal(model.config, model.weights, router), "accepted");
}

class DecoderTest : public testing::Test {
 protected:
  // The hidden states' bytes and, when asked for, what was watched.
  std::vector<float> Forward(const Decoder& decoder, const Batch& batch,
                             Trace* trace = nullptr) {
    math::Exec exec(math::Cpu(), arena_, math::Product::kExact);
    const math::Tensor y = decoder.Forward(exec, batch, trace);
    return {y.f32(), y.f32() + y.size()};
  }
  math::Arena arena_{1 << 16};
};

TEST_F(DecoderTest, OwnerBiasIsAddedWhereNegative) {
  const RandomModel model = MakeRandomModel(Block::kPostNorm, 2, false, 3);
  const auto text = RandomModel::Text(model.config, 1, 20);
  const SequenceInput input = {text};
  const Batch batch({&input, 1});
  const auto run = [&](float bias, Trace* trace) {
    ModelWeights weights = model.weights;
    for (LayerWeights& layer : weights.layers) {
      layer.owner_bias = model.storage->Copy({bias}, {1});
    }
    return Forward(*Decoder::Create(model.config, weights, model.top_k), batch,
                   trace);
  };
  const Decoder plain =
      *Decoder::Create(model.config, model.weights, model.top_k);
  Trace none, positive, negative;
  const std::vector<float> want = Forward(plain, batch, &none);
  EXPECT_EQ(run(2, &positive), want);
  EXPECT_NE(run(-1.5f, &negative), want);
  for (int64_t m = 0; m < batch.rows(); ++m) {
    const float* a = none.router_logits[0].f32() + 2 * m;
    const float* b = negative.router_logits[0].f32() + 2 * m;
    EXPECT_EQ(b[0], a[0]);
    EXPECT_EQ(b[1], a[1] - 1.5f);
  }
  // An expert that is never wanted weighs nothing: the base alone.
  const RandomModel base = BuildFrom(model, {0});
  EXPECT_EQ(
      run(-1e30f, nullptr),
      Forward(*Decoder::Create(base.config, base.weights, base.top_k), batch));
}

TEST_F(DecoderTest, WatchesEveryLayerAndGivesMemoryBackOtherwise) {
  const RandomModel model = MakeRandomModel(Block::kPreNorm, 3, false, 3);
  const Decoder decoder =
      *Decoder::Create(model.config, model.weights, model.top_k);
  const auto text = RandomModel::Text(model.config, 1, 60);
  const SequenceInput input = {text};
  const Batch batch({&input, 1});
  const std::vector<float> want = Forward(decoder, batch);
  const int64_t peak = arena_.peak_bytes();
  arena_.Reset();
  Trace trace;
  EXPECT_EQ(Forward(decoder, batch, &trace), want);
  EXPECT_GT(arena_.peak_bytes(), 2 * peak);  // three layers instead of one
  EXPECT_EQ(trace.hidden.size(), 4u);
  EXPECT_EQ(trace.router_input.size(), 3u);
  EXPECT_EQ(trace.routing[2].idx.shape, (math::Shape{60, 2}));
  EXPECT_EQ(std::vector<float>(trace.hidden[3].f32(),
                               trace.hidden[3].f32() + want.size()),
            want);
}

TEST_F(DecoderTest, AppendsToCachesAndCountsPositionsFromThem) {
  const RandomModel model = MakeRandomModel(Block::kPreNorm, 3, false, 3);
  const Decoder decoder =
      *Decoder::Create(model.config, model.weights, model.anchored);
  const auto text = RandomModel::Text(model.config, 1, 12);
  SequenceCache cache(model.config, 12, 3);
  const std::span<const int32_t> ids = text;
  const SequenceInput first = {ids.first(7), &cache};
  Forward(decoder, Batch({&first, 1}));
  EXPECT_EQ(cache.length(), 7);
  const SequenceInput both[] = {{ids.first(3)}, {ids.subspan(7), &cache, 2}};
  const Batch batch(both);
  EXPECT_EQ(batch.rows(), 8);
  EXPECT_EQ(batch.first_row(1), 3);
  EXPECT_EQ(batch.positions()[2], 2);
  EXPECT_EQ(batch.positions()[3], 7);
  EXPECT_EQ(batch.positions()[7], 11);
  EXPECT_EQ(batch.allowed()[7], 2u);  // as given: the router adds the base
  Forward(decoder, batch);
  EXPECT_EQ(cache.length(), 12);
  EXPECT_EQ(cache.capacity(), 12);
  EXPECT_TRUE(*cache.anchored(2).started);
  // Keys, values, S, H and a flag of every layer.
  EXPECT_EQ(SequenceCache::Bytes(model.config, 12),
            3 * ((2 * 12 * 2 * 6 + 3 + 28) * 4 + 1));
}

using DecoderDeathTest = DecoderTest;

TEST_F(DecoderDeathTest, ASequenceBeyondItsCacheEndsTheProgram) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // OpenMP has threads
  const RandomModel model = MakeRandomModel(Block::kPreNorm, 2, false, 3);
  const Decoder decoder =
      *Decoder::Create(model.config, model.weights, model.top_k);
  SequenceCache cache(model.config, 3, 2);
  const std::vector<int32_t> four = {1, 2, 3, 4}, foreign = {1, 83};
  const SequenceInput full = {four, &cache};
  EXPECT_DEATH(Forward(decoder, Batch({&full, 1})), "capacity");
  const SequenceInput outside = {foreign};
  EXPECT_DEATH(Forward(decoder, Batch({&outside, 1})), "vocabulary");
}

}  // namespace
}  // namespace motet::model
