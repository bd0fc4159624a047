// SPDX-License-Identifier: Apache-2.0
// Branch-Attend-Mix's block against the fixtures methods/bam_*: own and shared
// KV, parallel and sequential; attention gates, output, losses and every
// gradient (1e-4). The block is layer 0 of a decoder whose ids look up x, and
// a layer behind it makes its output one of the hidden states.
#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "compose/learn/tape.h"
#include "compose/model/decoder.h"
#include "gtest/gtest.h"
#include "tests/golden/fixtures.h"

namespace motet::golden {
namespace {

using math::Tensor;
using model::AttentionExperts;
using model::Block;

constexpr double kTolerance = 1e-4;

class BamTest : public testing::TestWithParam<std::tuple<std::string, bool>> {
 protected:
  const math::Kernels& kernels() const {
    return std::get<1>(GetParam()) ? math::Reference() : math::Cpu();
  }
  Tensor Put(const std::vector<float>& values, const math::Shape& shape) {
    Tensor t = numbers_.New(shape);
    std::copy(values.begin(), values.end(), t.f32());
    return t;
  }
  math::Arena numbers_;
};

// The fixture's name for a tensor of layer 0; "" for what it has not.
std::string NameOf(const std::string& name, bool parallel) {
  const std::string layer = "model.layers.0.";
  if (name == "model.embed_tokens.weight") return "x";
  if (!name.starts_with(layer)) return "";
  const std::string own = name.substr(layer.size());
  if (own == "input_layernorm.weight") return "norm1";
  if (own == "post_attention_layernorm.weight") return parallel ? "" : "norm2";
  if (own == "self_attn.gate.weight") return "attn_router";
  if (own == "self_attn.k_proj.weight") return "attn.0.k";
  if (own == "self_attn.v_proj.weight") return "attn.0.v";
  const std::string attention = "self_attn.experts.";
  if (own.starts_with(attention)) {
    return "attn." + own.substr(attention.size(), 3);
  }
  if (own == "mlp.gate.weight") return "ffn_router";
  const std::string ffn = "mlp.experts.";
  if (!own.starts_with(ffn)) return "";
  return "ffn." + own.substr(ffn.size(), own.find('_') - ffn.size());
}

TEST_P(BamTest, BlockLossesAndGradients) {
  MOTET_GOLDEN_OR_SKIP();
  const std::string& stem = std::get<0>(GetParam());
  const Fixture fixture("methods/bam_" + stem);
  ASSERT_TRUE(fixture.ok());
  const auto size = [&](const char* key) {
    return fixture.meta()[key].get<int64_t>();
  };
  const bool parallel = stem.ends_with("parallel");
  const int64_t batch = size("B"), time = size("T"), experts = size("E");
  model::ModelConfig config;
  config.block = parallel ? Block::kParallel : Block::kPreNorm;
  config.qk_norm = model::QkNorm::kNone;
  config.vocabulary = batch * time;
  config.width = size("C");
  config.layers = 2;
  config.heads = config.kv_heads = size("H");
  config.head_dim = size("D");
  config.ffn_width = size("F");
  config.max_positions = time;
  config.norm_eps = fixture.meta()["eps"].get<float>();
  config.rope_theta = fixture.meta()["theta"].get<double>();
  config.experts = experts;
  config.experts_per_token = size("ffn_top_k");
  config.attention_experts = stem.starts_with("shared_kv")
                                 ? AttentionExperts::kSharedKv
                                 : AttentionExperts::kOwnKv;

  math::Arena arena;
  learn::Tape tape(arena);
  model::ModelWeights weights;
  std::vector<std::pair<std::string, Tensor>> watched;
  model::VisitWeights(
      config, weights,
      [&](const std::string& name, const math::Shape& shape, Tensor& t) {
        const std::string own = NameOf(name, parallel);
        if (own.empty()) {  // behind the block: any numbers
          t = numbers_.New(shape);
          std::fill_n(t.f32(), t.size(), 0.25f);
          return;
        }
        t = Put(fixture.Floats(own), shape);
        tape.Watch(t);
        watched.emplace_back(own, t);
      });
  model::Router router;
  router.k = config.experts_per_token;  // softmax first, not renormalised
  const auto decoder = model::Decoder::Create(config, weights, router);
  ASSERT_TRUE(decoder.ok()) << decoder.status();

  std::vector<int32_t> ids(config.vocabulary);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  std::vector<model::SequenceInput> inputs;
  for (int64_t b = 0; b < batch; ++b) {
    inputs.push_back({std::span(ids).subspan(b * time, time)});
  }
  const model::Batch rows(inputs);
  math::Exec exec(kernels(), arena, math::Product::kExact, &tape);
  model::Trace trace;
  decoder->Forward(exec, rows, &trace);
  const Tensor y = trace.hidden[1];
  EXPECT_TRUE(Close(Values(y), fixture.Doubles("y"), kTolerance));
  const math::Routing& attention = trace.attention[0];
  std::vector<float> gates(attention.idx.size());
  for (int64_t i = 0; i < attention.idx.size(); ++i) {
    gates[i / experts * experts + attention.idx.i32()[i]] =
        attention.w.f32()[i];
  }
  EXPECT_TRUE(Close(gates, fixture.Doubles("attn_gates"), kTolerance));

  std::vector<double> totals(experts + 1);
  const double balance = exec.LoadBalance(trace.router_logits[0],
                                          trace.routing[0], true, totals, 0.01);
  const double want_balance = fixture.meta()["load_balance"].get<double>();
  EXPECT_NEAR(balance, want_balance, kTolerance * want_balance);
  const double z = exec.RouterZ(trace.router_logits[0], 0.001);
  const double want_z = fixture.meta()["z"].get<double>();
  EXPECT_NEAR(z, want_z, kTolerance * want_z);

  const std::vector<float> dy = fixture.Floats("dy");
  Tensor gradient = tape.Gradient(y);
  std::copy(dy.begin(), dy.end(), gradient.f32());
  tape.Backward();
  // x, two routers, one norm or two, and all of every expert.
  const int64_t own = config.attention_experts == AttentionExperts::kOwnKv
                          ? 4 * experts
                          : 2 * experts + 2;
  EXPECT_EQ(static_cast<int64_t>(watched.size()),
            (parallel ? 4 : 5) + own + 3 * experts);
  for (const auto& [name, t] : watched) {
    EXPECT_TRUE(Close(Values(tape.Gradient(t)).subspan(0, t.size()),
                      fixture.Doubles("grad." + name), kTolerance))
        << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, BamTest,
    testing::Combine(testing::Values("kv_experts_parallel",
                                     "kv_experts_sequential",
                                     "shared_kv_parallel",
                                     "shared_kv_sequential"),
                     testing::Bool()),
    [](const auto& info) {
      return std::get<0>(info.param) +
             (std::get<1>(info.param) ? "_Reference" : "_Cpu");
    });

}  // namespace
}  // namespace motet::golden
