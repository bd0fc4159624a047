// SPDX-License-Identifier: Apache-2.0
// Branch-Train-MiX's layer against the fixture methods/btx_layer: gates,
// output, load-balance loss and every gradient (1e-4). Beside it, what needs
// no fixture: identical experts are the dense layer, an FFN in chunks is the
// FFN, and the other routers do what METHODS 2 says.
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "compose/learn/tape.h"
#include "compose/model/mixture.h"
#include "gtest/gtest.h"
#include "tests/golden/fixtures.h"

namespace motet::golden {
namespace {

using math::Tensor;
using model::BtxRouter;
using model::FfnWeights;

constexpr double kTolerance = 1e-4;
constexpr int64_t kExperts = 4;

class BtxTest : public testing::TestWithParam<bool> {
 protected:
  const math::Kernels& kernels() const {
    return GetParam() ? math::Reference() : math::Cpu();
  }
  Tensor Put(const std::vector<float>& values, const math::Shape& shape) {
    Tensor t = numbers_.New(shape);
    std::copy(values.begin(), values.end(), t.f32());
    return t;
  }
  Tensor Random(const math::Shape& shape, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    Tensor t = numbers_.New(shape);
    for (int64_t i = 0; i < t.size(); ++i) t.f32()[i] = normal(random) / 2;
    return t;
  }
  FfnWeights RandomFfn(int64_t width, int64_t ffn, uint64_t seed) {
    return {Random({ffn, width}, seed), Random({ffn, width}, seed + 1),
            Random({width, ffn}, seed + 2)};
  }
  math::Arena numbers_;
};

TEST_P(BtxTest, LayerLossAndGradients) {
  MOTET_GOLDEN_OR_SKIP();
  const Fixture fixture("methods/btx_layer");
  ASSERT_TRUE(fixture.ok());
  const auto load = [&](const std::string& name) {
    return Put(fixture.Floats(name), fixture.ShapeOf(name));
  };
  const Tensor x = load("x"), router = load("router"), dy = load("dy");
  std::vector<FfnWeights> experts;
  math::Arena arena;
  learn::Tape tape(arena);
  for (const Tensor& t : {x, router}) tape.Watch(t);
  for (int e = 0; e < kExperts; ++e) {
    const std::string prefix = "expert." + std::to_string(e) + ".";
    experts.push_back(
        {load(prefix + "gate"), load(prefix + "up"), load(prefix + "down")});
    for (const Tensor& t :
         {experts[e].gate, experts[e].up, experts[e].down}) {
      tape.Watch(t);
    }
  }
  math::Exec exec(kernels(), arena, math::Product::kExact, &tape);
  const double alpha = fixture.meta()["alpha"].get<double>();
  const Tensor logits = exec.Linear(x, router);
  BtxRouter how;
  how.k = fixture.meta()["k"].get<int64_t>();
  const math::Routing routing = model::RouteBtx(exec, how, logits);
  const Tensor y = model::RunExperts(exec, experts, routing, x);
  std::vector<double> totals(kExperts + 1);
  const double loss =
      alpha * exec.LoadBalance(logits, routing, false, totals, alpha);
  EXPECT_NEAR(loss, fixture.meta()["load_balance_loss"].get<double>(),
              kTolerance * loss);
  EXPECT_TRUE(Close(Values(y), fixture.Doubles("y"), kTolerance));
  std::vector<float> gates(x.rows() * kExperts);
  for (int64_t i = 0; i < routing.idx.size(); ++i) {
    gates[i / how.k * kExperts + routing.idx.i32()[i]] = routing.w.f32()[i];
  }
  EXPECT_TRUE(Close(gates, fixture.Doubles("gates"), kTolerance));

  const Tensor gradient = tape.Gradient(y);
  std::copy_n(dy.f32(), dy.size(), const_cast<Tensor&>(gradient).f32());
  tape.Backward();
  const auto expect = [&](const std::string& name, const Tensor& t) {
    EXPECT_TRUE(Close(Values(tape.Gradient(t)).subspan(0, t.size()),
                      fixture.Doubles("grad." + name), kTolerance))
        << name;
  };
  expect("x", x);
  expect("router", router);
  for (int e = 0; e < kExperts; ++e) {
    const std::string prefix = "expert." + std::to_string(e) + ".";
    expect(prefix + "gate", experts[e].gate);
    expect(prefix + "up", experts[e].up);
    expect(prefix + "down", experts[e].down);
  }
}

TEST_P(BtxTest, IdenticalExpertsAreTheDenseLayer) {
  const int64_t rows = 17, width = 12;
  const FfnWeights ffn = RandomFfn(width, 20, 3);
  const std::vector<FfnWeights> experts(kExperts, ffn);
  const Tensor x = Random({rows, width}, 1);
  const Tensor router = Random({kExperts, width}, 2);
  math::Arena arena;
  math::Exec exec(kernels(), arena, math::Product::kExact);
  const Tensor logits = exec.Linear(x, router);
  const Tensor dense = model::RunFfn(exec, ffn, x);
  const std::vector<double> want(dense.f32(), dense.f32() + dense.size());
  for (const BtxRouter::Kind kind :
       {BtxRouter::Kind::kTopK, BtxRouter::Kind::kSoft}) {
    const math::Routing routing =
        model::RouteBtx(exec, {.kind = kind}, logits);
    EXPECT_TRUE(Close(Values(model::RunExperts(exec, experts, routing, x)),
                      want, 1e-6));
  }
}

TEST_P(BtxTest, ChunksOfAnFfnSumToIt) {
  const int64_t rows = 9, width = 12, chunks = 4;
  const FfnWeights ffn = RandomFfn(width, 20, 3);
  const Tensor x = Random({rows, width}, 1);
  math::Arena arena;
  math::Exec exec(kernels(), arena, math::Product::kExact);
  math::Routing all = {arena.New({rows, chunks}, math::DType::kI32),
                       arena.New({rows, chunks})};
  for (int64_t i = 0; i < all.idx.size(); ++i) {
    all.idx.i32()[i] = static_cast<int32_t>(i % chunks);
    all.w.f32()[i] = 1;
  }
  const Tensor dense = model::RunFfn(exec, ffn, x);
  const Tensor y = model::RunExperts(
      exec, model::SplitFfn(arena, ffn, chunks), all, x);
  EXPECT_TRUE(Close(Values(y),
                    std::vector<double>(dense.f32(),
                                        dense.f32() + dense.size()),
                    1e-6));
}

TEST_P(BtxTest, SwitchDropsWhatIsBeyondCapacity) {
  const int64_t rows = 40;
  math::Arena arena;
  math::Exec exec(kernels(), arena, math::Product::kExact);
  Tensor logits = Random({rows, kExperts}, 5);
  for (int64_t m = 0; m < rows; ++m) logits.f32()[m * kExperts + 2] += 3;
  const math::Routing routing = model::RouteBtx(
      exec, {.kind = BtxRouter::Kind::kSwitch}, logits);
  int kept = 0, dropped = 0;
  for (int64_t m = 0; m < rows; ++m) {
    kept += routing.idx.i32()[m] == 2;
    dropped += routing.idx.i32()[m] < 0;
    EXPECT_EQ(routing.w.f32()[m] > 0, routing.idx.i32()[m] >= 0);
  }
  EXPECT_EQ(kept, 15);  // 1.5 * 40 / 4
  EXPECT_GT(dropped, 10);
  // A row without an expert adds nothing to the residual stream.
  const std::vector<FfnWeights> experts(kExperts, RandomFfn(12, 20, 3));
  const Tensor y =
      model::RunExperts(exec, experts, routing, Random({rows, 12}, 1));
  for (int64_t m = 0; m < rows; ++m) {
    if (routing.idx.i32()[m] >= 0) continue;
    for (int64_t c = 0; c < 12; ++c) EXPECT_EQ(y.f32()[m * 12 + c], 0);
  }
}

// Over many draws of cold noise, choices follow softmax(logits).
TEST_P(BtxTest, SampleDrawsFromTheSoftmax) {
  const int64_t rows = 20000;
  math::Arena arena;
  math::Exec exec(kernels(), arena, math::Product::kExact);
  const Tensor logits = arena.New({rows, 2});
  for (int64_t m = 0; m < rows; ++m) {
    const_cast<Tensor&>(logits).f32()[2 * m] = 1;
    const_cast<Tensor&>(logits).f32()[2 * m + 1] = 0;
  }
  const math::Routing routing = model::RouteBtx(
      exec, {.kind = BtxRouter::Kind::kSample, .temperature = 0.5, .seed = 7},
      logits);
  double first = 0;
  for (int64_t m = 0; m < rows; ++m) {
    first += routing.idx.i32()[m] == 0;
    EXPECT_GE(routing.w.f32()[m], 0.5f);  // the largest of two
  }
  // 6 standard deviations of a share of 20000.
  EXPECT_NEAR(first / rows, 1 / (1 + std::exp(-1.0)), 0.02);
}

// In pieces as at once: the later pieces see the shares of the earlier.
TEST_P(BtxTest, LoadIsBalancedOverTheWholeBatch) {
  math::Arena arena;
  math::Exec exec(kernels(), arena, math::Product::kExact);
  const Tensor logits = Random({30, kExperts}, 5);
  for (const bool counts : {false, true}) {
    const auto loss = [&](int64_t from, int64_t rows,
                          std::vector<double>& totals) {
      const Tensor part = logits.RowSlice(from, rows);
      return exec.LoadBalance(part, model::RouteBtx(exec, {}, part), counts,
                              totals, 0.01);
    };
    std::vector<double> whole(kExperts + 1), pieces(kExperts + 1);
    const double at_once = loss(0, 30, whole);
    loss(0, 10, pieces);
    loss(10, 20, pieces);
    for (size_t e = 0; e < whole.size(); ++e) {
      EXPECT_NEAR(pieces[e], whole[e], 1e-9);
    }
    EXPECT_GT(at_once, 0.8);
  }
  // All to one expert is the worst: E times its probability.
  const Tensor one = arena.New({8, kExperts});
  for (int64_t i = 0; i < one.size(); ++i) {
    const_cast<Tensor&>(one).f32()[i] = i % kExperts == 1 ? 30.0f : 0.0f;
  }
  std::vector<double> totals(kExperts + 1);
  EXPECT_NEAR(exec.LoadBalance(one, model::RouteBtx(exec, {.k = 1}, one),
                               false, totals, 1),
              kExperts, 1e-6);
}

INSTANTIATE_TEST_SUITE_P(All, BtxTest, testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Reference" : "Cpu";
                         });

}  // namespace
}  // namespace motet::golden
