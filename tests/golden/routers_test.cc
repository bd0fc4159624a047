// SPDX-License-Identifier: Apache-2.0
// Router kinds against the fixture methods/routers: top-p gates and null
// experts' gates (1e-5).
#include <algorithm>
#include <cmath>
#include <vector>

#include "compose/math/arena.h"
#include "compose/math/operators.h"
#include "gtest/gtest.h"
#include "tests/golden/fixtures.h"

namespace motet::golden {
namespace {

using math::Kernels;
using math::Tensor;

constexpr double kTolerance = 1e-5;

class RoutersTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    MOTET_GOLDEN_OR_SKIP();
    fixture_ = std::make_unique<Fixture>("methods/routers");
    ASSERT_TRUE(fixture_->ok());
  }
  const Kernels& kernels() const {
    return GetParam() ? math::Reference() : math::Cpu();
  }
  // Columns [first, first + count) of a [M,N] tensor.
  Tensor Columns(const std::string& name, int64_t first, int64_t count,
                 bool logarithm = false) {
    const math::Shape shape = fixture_->ShapeOf(name);
    const std::vector<float> all = fixture_->Floats(name);
    Tensor t = arena_.New({shape.dim[0], count});
    for (int64_t i = 0; i < t.size(); ++i) {
      const float v =
          all[i / count * shape.dim[1] + first + i % count];
      t.f32()[i] = logarithm ? std::log(v) : v;
    }
    return t;
  }
  // [M,E]: weights where they belong.
  std::vector<float> Dense(const Tensor& idx, const Tensor& w, int64_t cols) {
    std::vector<float> gates(idx.rows() * cols);
    for (int64_t i = 0; i < idx.size(); ++i) {
      if (idx.i32()[i] < 0) continue;
      gates[i / idx.cols() * cols + idx.i32()[i]] = w.f32()[i];
    }
    return gates;
  }

  std::unique_ptr<Fixture> fixture_;
  math::Arena arena_;
};

TEST_P(RoutersTest, TopP) {
  const int64_t experts = fixture_->ShapeOf("top_p.probs").dim[1];
  const Tensor x = Columns("top_p.probs", 0, experts, true);
  const Tensor idx = arena_.New({x.rows(), experts}, math::DType::kI32);
  const Tensor w = arena_.New({x.rows(), experts});
  kernels().top_p(x, {}, fixture_->meta()["top_p"].get<double>(), false, idx,
                  w);
  const std::vector<float> got = Dense(idx, w, experts);
  const std::vector<double> want = fixture_->Doubles("top_p.gates");
  EXPECT_TRUE(Close(got, want, kTolerance));
  int more = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[i] > 0, want[i] > 0) << i;
    more += want[i] > 0;
  }
  EXPECT_GT(more, x.rows());  // some rows needed several
}

TEST_P(RoutersTest, NullExperts) {
  const auto& meta = fixture_->meta()["null"];
  const int64_t real = meta["real"].get<int64_t>();
  const int64_t null = meta["null"].get<int64_t>();
  const int64_t k = meta["k"].get<int64_t>();
  const Tensor x = Columns("null.logits", 0, real);
  const Tensor n = Columns("null.logits", real, null);
  const Tensor idx = arena_.New({x.rows(), k}, math::DType::kI32);
  const Tensor w = arena_.New({x.rows(), k});
  kernels().null_top_k(x, n, {}, idx, w);
  EXPECT_TRUE(Close(Dense(idx, w, real + null),
                    fixture_->Doubles("null.gates"), kTolerance));
  int fewer = 0;
  for (int64_t i = 0; i < idx.size(); ++i) fewer += idx.i32()[i] < 0;
  EXPECT_GT(fewer, 0);  // nulls were chosen somewhere
}

INSTANTIATE_TEST_SUITE_P(All, RoutersTest, testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Reference" : "Cpu";
                         });

}  // namespace
}  // namespace motet::golden
