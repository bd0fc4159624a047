// SPDX-License-Identifier: Apache-2.0
// Router kinds against the fixture methods/routers: rows solved in closed form
// with all owners and without one (1e-6), top-p gates and null experts' gates
// (1e-5).
#include <algorithm>
#include <cmath>
#include <vector>

#include "compose/learn/solved_rows.h"
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

// Columns of W, one owner after the other, from the owners' own sums.
TEST(RoutersGolden, SolvedRows) {
  MOTET_GOLDEN_OR_SKIP();
  const Fixture fixture("methods/routers");
  ASSERT_TRUE(fixture.ok());
  const int64_t width = fixture.ShapeOf("dume").dim[0];
  std::vector<std::vector<double>> products, sums;
  for (int e = 0; e < 4; ++e) {
    const std::vector<double> x = fixture.Doubles("x." + std::to_string(e));
    std::vector<double> a, b(width);
    for (int64_t i = 0; i < width; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (size_t m = 0; m < x.size(); m += width) sum += x[m + i] * x[m + j];
        a.push_back(sum);
      }
      for (size_t m = 0; m < x.size(); m += width) b[i] += x[m + i];
    }
    products.push_back(a);
    sums.push_back(b);
  }
  for (const bool all : {true, false}) {
    std::vector<learn::MomentsView> parts;
    for (int e = 0; e < 4; ++e) {
      if (all || e != 1) {
        parts.push_back({products[e].data(), sums[e].data()});
      }
    }
    const std::vector<double> rows = learn::SolveRows(parts, width, 1e-2);
    const std::vector<double> want =
        fixture.Doubles(all ? "dume" : "dume_without_1");
    std::vector<float> columns(rows.size());
    for (size_t p = 0; p < parts.size(); ++p) {
      for (int64_t i = 0; i < width; ++i) {
        columns[i * parts.size() + p] =
            static_cast<float>(rows[p * width + i]);
      }
    }
    EXPECT_TRUE(Close(columns, want, 1e-6));
  }
}

INSTANTIATE_TEST_SUITE_P(All, RoutersTest, testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Reference" : "Cpu";
                         });

}  // namespace
}  // namespace motet::golden
