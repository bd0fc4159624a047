// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "compose/learn/schedule.h"

namespace motet::learn {
namespace {

using math::Tensor;

Tensor View(std::vector<float>& values, const math::Shape& shape) {
  Tensor t;
  t.data = values.data();
  t.shape = shape;
  return t;
}

TEST(ScheduleTest, WarmsUpThenFallsAlongACosine) {
  const Schedule s = {8, 2, 1e-3, 0.1};
  // Of the reference fixture training/adamw_llama.
  const double want[] = {0.0005,  0.001,   0.0009397114317029974, 0.000775,
                         0.00055, 0.000325, 0.00016028856829700258, 0.0001};
  for (int64_t step = 1; step <= 8; ++step) {
    EXPECT_NEAR(LearningRate(s, step), want[step - 1], 1e-15);
  }
}

TEST(ScheduleTest, EdgesStayFinite) {
  EXPECT_EQ(LearningRate({1, 0, 2.0, 0.5}, 1), 1.0);     // no warm-up
  EXPECT_EQ(LearningRate({3, 10, 1.0, 0.1}, 3), 0.3);    // never warm
  EXPECT_EQ(LearningRate({4, 4, 1.0, 0.1}, 4), 1.0);     // no rest
}

TEST(ScheduleTest, EveryShapeByHand) {
  // 2 steps of warm-up, then u = 0.1, 0.2, ... 1.
  const auto rate = [](ScheduleShape shape, int64_t step) {
    return LearningRate({12, 2, 2.0, 0.25, shape, 0.4}, step);
  };
  for (const std::string& name : ScheduleNames()) {
    ScheduleShape shape = ScheduleShape::kCosine;
    ASSERT_TRUE(FindSchedule(name, &shape)) << name;
    EXPECT_EQ(Name(shape), name);
    EXPECT_EQ(rate(shape, 1), 1.0) << name;
    EXPECT_EQ(rate(shape, 2), 2.0) << name;
    // Nothing rises after the warm-up, nothing falls below the end.
    for (int64_t step = 3; step <= 12; ++step) {
      EXPECT_LE(rate(shape, step), rate(shape, step - 1) + 1e-15) << name;
      EXPECT_GE(rate(shape, step), 0.5 - 1e-15) << name;
    }
    EXPECT_NEAR(rate(shape, 12), name == "constant" ? 2.0 : 0.5, 1e-15);
  }
  EXPECT_NEAR(rate(ScheduleShape::kLinear, 7), 2 * (0.25 + 0.75 * 0.5), 1e-15);
  EXPECT_NEAR(rate(ScheduleShape::kCosine, 7), 2 * (0.25 + 0.75 * 0.5), 1e-15);
  EXPECT_EQ(rate(ScheduleShape::kWarmupStableDecay, 8), 2.0);  // u = 0.6
  EXPECT_NEAR(rate(ScheduleShape::kWarmupStableDecay, 10),
              2 * (0.25 + 0.75 * 0.5), 1e-15);
  ScheduleShape kept = ScheduleShape::kLinear;
  EXPECT_FALSE(FindSchedule("cosine ", &kept));
  EXPECT_EQ(kept, ScheduleShape::kLinear);
}

TEST(ScheduleTest, DefaultWarmupIsATenthAndAtMostTwenty) {
  EXPECT_EQ(DefaultWarmupSteps(1), 0);
  EXPECT_EQ(DefaultWarmupSteps(10), 1);
  EXPECT_EQ(DefaultWarmupSteps(100), 10);
  EXPECT_EQ(DefaultWarmupSteps(200), 20);
  EXPECT_EQ(DefaultWarmupSteps(100000), 20);
}

TEST(OptimizerTest, MovesOneRowAndNothingElse) {
  std::vector<float> router = {1, 2, 3, 4};
  const Tensor whole = View(router, {2, 2});
  math::Arena arena;
  Tape tape(arena);
  Optimizer optimizer({{"row", whole.RowSlice(1, 1), whole, false}}, tape);
  Tensor gradient = tape.Gradient(whole);
  for (int i = 0; i < 4; ++i) gradient.f32()[i] = 3;
  const double norm = optimizer.GradientNorm();
  EXPECT_NEAR(norm, std::sqrt(18.0), 1e-12);  // of the trained row alone
  optimizer.Step(math::Reference(), 0.1, 0.0, norm, 0.0);
  EXPECT_EQ(router[0], 1);
  EXPECT_EQ(router[1], 2);
  EXPECT_NEAR(router[2], 2.9, 1e-5);
  EXPECT_NEAR(router[3], 3.9, 1e-5);
  EXPECT_EQ(optimizer.updates(), 1);
}

// Clipping scales gradients, and Adam's second moment shows the scale.
TEST(OptimizerTest, ClipsAsTorchDoes) {
  std::vector<float> w = {0, 0};
  const Tensor t = View(w, {2});
  math::Arena arena;
  Tape tape(arena);
  Optimizer optimizer({{"w", t, t, false}}, tape);
  tape.Gradient(t).f32()[0] = 3;
  tape.Gradient(t).f32()[1] = 4;
  optimizer.Step(math::Reference(), 0.1, 0.0, optimizer.GradientNorm(), 1.0);
  const double scale = 1.0 / (5 + 1e-6);
  EXPECT_NEAR(optimizer.items()[0].v.f32()[1], 0.05 * 16 * scale * scale, 1e-8);
  EXPECT_NEAR(optimizer.items()[0].m.f32()[0], 0.1 * 3 * scale, 1e-7);
}

TEST(OptimizerTest, DecayIsForThoseWhoWantIt) {
  std::vector<float> a = {1}, b = {1};
  math::Arena arena;
  Tape tape(arena);
  Optimizer optimizer({{"a", View(a, {1, 1}), View(a, {1, 1}), true},
                       {"b", View(b, {1}), View(b, {1}), false}},
                      tape);
  optimizer.Step(math::Reference(), 0.1, 0.5, 0, 1.0);
  EXPECT_NEAR(a[0], 0.95, 1e-6);
  EXPECT_EQ(b[0], 1);
}

TEST(OptimizerTest, NormHasTheSameBitsOnAnyNumberOfThreads) {
  std::vector<float> w(200001);
  const Tensor t = View(w, {200001});
  math::Arena arena;
  Tape tape(arena);
  Optimizer optimizer({{"w", t, t, false}}, tape);
  Tensor g = tape.Gradient(t);
  for (int64_t i = 0; i < g.size(); ++i) {
    g.f32()[i] = std::sin(static_cast<float>(i));
  }
  const int threads = math::Threads();
  math::SetThreads(1);
  const double one = optimizer.GradientNorm();
  math::SetThreads(4);
  const double four = optimizer.GradientNorm();
  math::SetThreads(threads);
  EXPECT_EQ(one, four);
  EXPECT_NEAR(one * one, 100000, 10);
  g.f32()[77] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(std::isfinite(optimizer.GradientNorm()));
}

}  // namespace
}  // namespace motet::learn
