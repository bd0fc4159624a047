// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/tape.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace motet::learn {
namespace {

using math::Arena;
using math::Exec;
using math::Product;
using math::Tensor;

Tensor View(std::vector<float>& values, const math::Shape& shape) {
  Tensor t;
  t.data = values.data();
  t.shape = shape;
  return t;
}

class TapeTest : public testing::Test {
 protected:
  Arena arena_;
  Tape tape_{arena_};
  Exec exec_{math::Reference(), arena_, Product::kExact, &tape_};
  std::vector<float> x_ = {1, 2, 3, 4};       // [2,2]
  std::vector<float> w_ = {1, 0, 0, 2, 1, 1};  // [3,2]
};

TEST_F(TapeTest, RecordsNothingOfWhatIsFrozen) {
  const Tensor x = View(x_, {2, 2}), w = View(w_, {3, 2});
  const Tensor y = exec_.Linear(x, w);
  EXPECT_EQ(tape_.records(), 0u);
  EXPECT_FALSE(tape_.Needs(y));
  EXPECT_TRUE(tape_.Gradient(w).empty());
}

TEST_F(TapeTest, ChainsOperatorsAndLeavesFrozenInputsAlone) {
  const Tensor x = View(x_, {2, 2}), w = View(w_, {3, 2});
  tape_.Watch(w);
  const Tensor y = exec_.Linear(x, w);
  const Tensor z = exec_.Add(y, y);
  EXPECT_EQ(tape_.records(), 2u);
  EXPECT_TRUE(tape_.Gradient(x).empty());
  Tensor dz = tape_.Gradient(z);
  for (int64_t i = 0; i < dz.size(); ++i) dz.f32()[i] = 1;
  tape_.Backward();
  // z = 2 x w^T, so dw[n] = 2 * sum of x's rows.
  const Tensor dw = tape_.Gradient(w);
  for (int n = 0; n < 3; ++n) {
    EXPECT_EQ(dw.f32()[2 * n], 2 * (1 + 3));
    EXPECT_EQ(dw.f32()[2 * n + 1], 2 * (2 + 4));
  }
}

TEST_F(TapeTest, ResetClearsGradientsAndForgetsResults) {
  const Tensor x = View(x_, {2, 2}), w = View(w_, {3, 2});
  tape_.Watch(w);
  const Tensor y = exec_.Linear(x, w);
  tape_.Gradient(y).f32()[0] = 5;
  tape_.Backward();
  EXPECT_NE(tape_.Gradient(w).f32()[0], 0);
  tape_.Reset();
  EXPECT_EQ(tape_.Gradient(w).f32()[0], 0);
  EXPECT_FALSE(tape_.Needs(y));
  EXPECT_TRUE(tape_.Needs(w));
}

TEST_F(TapeTest, RowSlicesAreViewsOfTheWholeGradient) {
  const Tensor w = View(w_, {3, 2});
  tape_.Watch(w);
  const Tensor whole = tape_.Gradient(w);
  const Tensor row = tape_.Gradient(w.RowSlice(2, 1));
  EXPECT_EQ(row.f32(), whole.f32() + 4);
  EXPECT_EQ(row.size(), 2);
  // Asked for in any order: a slice first must not make a small buffer.
  const Tensor y = exec_.Linear(View(x_, {2, 2}), w);
  const Tensor first = tape_.Gradient(y.RowSlice(0, 1));
  const Tensor all = tape_.Gradient(y);
  EXPECT_EQ(first.f32(), all.f32());
  EXPECT_EQ(all.size(), 6);
}

TEST_F(TapeTest, GradientBuffersOfResultsAreUsedAgain) {
  const Tensor x = View(x_, {2, 2});
  std::vector<float> w = {1, 0, 0, 1};
  tape_.Watch(View(w, {2, 2}));
  Tensor y = exec_.Linear(x, View(w, {2, 2}));
  for (int i = 0; i < 50; ++i) y = exec_.Add(y, x);
  tape_.Gradient(y).f32()[0] = 1;
  const Arena::Mark before = arena_.mark();
  tape_.Backward();
  // Fifty links of a chain, yet no more than a few buffers.
  EXPECT_EQ(arena_.mark().block, before.block);
  EXPECT_LE(arena_.mark().offset - before.offset, 4 * 64);
  EXPECT_EQ(tape_.Gradient(View(w, {2, 2})).f32()[0], 1);
}

// What the last step left is not cleared at once: it must be gone all the same
// where the next one writes, where it adds, and where it does not come by.
TEST_F(TapeTest, NothingOfTheLastStepStays) {
  const Tensor x = View(x_, {2, 2}), w = View(w_, {3, 2});
  std::vector<float> b_ = {1, 1, 1};
  const Tensor b = View(b_, {3});
  tape_.Watch(w);
  tape_.Watch(b);
  const auto step = [&](int products, bool bias) {
    Tensor sum = exec_.Linear(x, w);
    for (int i = 1; i < products; ++i) sum = exec_.Add(sum, exec_.Linear(x, w));
    if (bias) sum = exec_.AddBias(sum, b);
    tape_.Gradient(sum).f32()[0] = 1;
    tape_.Backward();
    return std::pair(tape_.Gradient(w).f32()[0], tape_.Gradient(b).f32()[0]);
  };
  EXPECT_EQ(step(1, true), std::pair(1.0f, 1.0f));
  EXPECT_EQ(step(2, true), std::pair(3.0f, 2.0f));  // adds up
  tape_.Reset();
  EXPECT_EQ(step(2, false), std::pair(2.0f, 0.0f));
  tape_.Reset();
  tape_.Settle();
  EXPECT_EQ(tape_.Gradient(w).f32()[0], 0);
}

// A sum hands its gradient on where that is all there is, and adds else.
TEST_F(TapeTest, SumsOfOneTensorAddUp) {
  const Tensor x = View(x_, {2, 2});
  std::vector<float> w = {1, 0, 0, 1};
  tape_.Watch(View(w, {2, 2}));
  const Tensor y = exec_.Linear(x, View(w, {2, 2}));
  const Tensor z = exec_.Add(exec_.Add(y, y), exec_.Add(y, x));
  tape_.Gradient(z).f32()[0] = 1;
  tape_.Backward();
  EXPECT_EQ(tape_.Gradient(View(w, {2, 2})).f32()[0], 3);
}

TEST_F(TapeTest, WatchingTwiceIsWatchingOnce) {
  const Tensor w = View(w_, {3, 2});
  tape_.Watch(w);
  const float* gradient = tape_.Gradient(w).f32();
  tape_.Watch(w);
  EXPECT_EQ(tape_.Gradient(w).f32(), gradient);
}

}  // namespace
}  // namespace motet::learn
