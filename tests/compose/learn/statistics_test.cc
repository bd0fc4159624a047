// SPDX-License-Identifier: Apache-2.0
// Statistics against the same formulas written token by token in double.
#include "compose/learn/solved_rows.h"
#include "compose/learn/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "compose/learn/cholesky.h"
#include "compose/learn/eigen.h"
#include "compose/learn/hash.h"
#include "compose/learn/trainer.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

constexpr int64_t kWindow = 20, kWidth = 16;
using Rows = std::vector<std::vector<double>>;

// Router inputs of layer l, window by window, one forward each.
Rows RouterInputs(const model::Decoder& decoder, const TokenWindows& windows,
                  int64_t count, size_t l) {
  Rows rows;
  for (int64_t i = 0; i < count; ++i) {
    math::Arena arena;
    math::Exec exec(math::Cpu(), arena, math::Product::kExact);
    model::SequenceInput input;
    input.ids = windows.at(i);
    const model::Batch batch(std::span(&input, 1));
    model::Trace trace;
    decoder.Forward(exec, batch, &trace);
    const math::Tensor& h = trace.router_input[l];
    for (int64_t m = 0; m < h.rows(); ++m) {
      rows.emplace_back(h.f32() + m * kWidth, h.f32() + (m + 1) * kWidth);
    }
  }
  return rows;
}

std::vector<double> Mean(const Rows& rows) {
  std::vector<double> mean(kWidth);
  for (const auto& row : rows) {
    for (size_t c = 0; c < mean.size(); ++c) {
      mean[c] += row[c] / static_cast<double>(rows.size());
    }
  }
  return mean;
}

class StatisticsTest : public testing::Test {
 protected:
  void SetUp() override {
    base_ = toy::Loaded(model_);
    expert_ = NewOwnerExpert(*base_);
    uint64_t n = 0;
    for (OwnerExpert::Layer& layer : expert_.layers) {
      for (math::Tensor t :
           {layer.ffn.gate, layer.ffn.up, layer.ffn.down, layer.row}) {
        for (int64_t i = 0; i < t.size(); ++i) {
          t.f32()[i] = static_cast<float>(0.4 * Normal(21, n++));
        }
      }
    }
  }
  OwnedModel model_ = toy::Model(toy::Config(model::Block::kPostNorm), 11);
  std::unique_ptr<package::LoadedModel> base_;
  OwnerExpert expert_;
  TokenWindows public_ = toy::Windows(20, 2, kWindow);
  TokenWindows own_ = toy::Windows(20, 1, kWindow);
};

TEST_F(StatisticsTest, AnchorIsMeanCovarianceAndTheirRidgeInverse) {
  auto base = BaseDecoder(*base_);
  ASSERT_TRUE(base.ok());
  const int64_t count = 30;
  auto anchor = ComputeAnchor(*base, public_, count * kWindow + 7);
  ASSERT_TRUE(anchor.ok()) << anchor.status();
  ASSERT_EQ(anchor->size(), 2u);
  for (size_t l = 0; l < 2; ++l) {
    const Rows rows = RouterInputs(*base, public_, count, l);
    const std::vector<double> mean = Mean(rows);
    const AnchorLayer& layer = (*anchor)[l];
    double diagonal = 0;
    for (int64_t i = 0; i < kWidth; ++i) {
      EXPECT_NEAR(layer.mean[i], mean[i], 1e-5);
      for (int64_t j = 0; j < kWidth; ++j) {
        double want = 0;
        for (const auto& row : rows) {
          want += (row[i] - mean[i]) * (row[j] - mean[j]);
        }
        want /= static_cast<double>(rows.size());
        EXPECT_NEAR(layer.covariance[i * kWidth + j], want, 1e-5);
        if (i == j) diagonal += want;
      }
    }
    const double lambda = 1e-2 * diagonal / kWidth;
    for (int64_t i = 0; i < kWidth; ++i) {
      for (int64_t j = 0; j < kWidth; ++j) {
        double product = 0;
        for (int64_t k = 0; k < kWidth; ++k) {
          product += static_cast<double>(layer.precision[i * kWidth + k]) *
                     (layer.covariance[k * kWidth + j] + (k == j ? lambda : 0));
        }
        EXPECT_NEAR(product, i == j ? 1 : 0, 1e-4);
      }
    }
  }
}

TEST_F(StatisticsTest, SecondMomentsAreSumsOverTheText) {
  auto base = BaseDecoder(*base_);
  ASSERT_TRUE(base.ok());
  const int64_t count = 7;
  auto moments = ComputeSecondMoments(*base, own_, count * kWindow + 3);
  ASSERT_TRUE(moments.ok()) << moments.status();
  EXPECT_EQ(StatisticsTokens(own_, count * kWindow + 3), count * kWindow);
  ASSERT_EQ(moments->size(), 2u);
  for (size_t l = 0; l < 2; ++l) {
    const Rows rows = RouterInputs(*base, own_, count, l);
    size_t at = 0;
    for (int64_t i = 0; i < kWidth; ++i) {
      double sum = 0;
      for (const auto& row : rows) sum += row[i];
      EXPECT_NEAR((*moments)[l].sum[i], sum, 1e-6);
      for (int64_t j = 0; j <= i; ++j, ++at) {
        double product = 0;
        for (const auto& row : rows) product += row[i] * row[j];
        EXPECT_NEAR((*moments)[l].products[at], product, 1e-6);
      }
    }
    EXPECT_EQ((*moments)[l].products.size(), at);
  }
}

// Further gates read distances under their own way of smoothing.
TEST_F(StatisticsTest, FurtherGates) {
  auto base = BaseDecoder(*base_);
  auto pair = PairDecoder(*base_, expert_);
  ASSERT_TRUE(base.ok() && pair.ok());
  auto anchor = ComputeAnchor(*base, public_, 1 << 20);
  ASSERT_TRUE(anchor.ok());
  OwnerStatisticsOptions options;
  options.max_tokens = 25 * kWindow;
  options.further = {{0.8, false, 0.5, 0},
                     {0, false, 0.9, 0},
                     {0, true, 1, 0},
                     {0, true, 1, 3}};
  auto all = ComputeOwnerStatistics(*base, *pair, *anchor, own_, options);
  ASSERT_TRUE(all.ok()) << all.status();
  options.further = {};
  options.smoothing = 0;
  options.quantile = 0.9;
  auto none = ComputeOwnerStatistics(*base, *pair, *anchor, own_, options);
  ASSERT_TRUE(none.ok());
  for (size_t l = 0; l < 2; ++l) {
    const OwnerLayer& layer = (*all)[l];
    ASSERT_EQ(layer.further.size(), 4u);
    const std::vector<float> factor =
        GateFactor((*anchor)[l].covariance.data(),
                   (*anchor)[l].precision.data(), kWidth, 3);
    double largest_of_rank = 0;
    EXPECT_LT(layer.further[0], layer.threshold);
    EXPECT_EQ(layer.further[1], (*none)[l].threshold);
    // The largest distance of a window's mean so far.
    const Rows rows = RouterInputs(*pair, own_, 25, l);
    double largest = 0;
    std::vector<double> sum(kWidth);
    for (size_t t = 0; t < rows.size(); ++t) {
      const int64_t position = static_cast<int64_t>(t) % kWindow;
      std::vector<double> offset(kWidth);
      for (int64_t c = 0; c < kWidth; ++c) {
        sum[c] = position == 0 ? rows[t][c] : sum[c] + rows[t][c];
        offset[c] = sum[c] / static_cast<double>(position + 1) -
                    static_cast<double>(layer.pair_mean[c]);
      }
      if (position < 8) continue;
      double d = 0;
      for (int64_t i = 0; i < kWidth; ++i) {
        for (int64_t j = 0; j < kWidth; ++j) {
          d += offset[i] *
               static_cast<double>((*anchor)[l].precision[i * kWidth + j]) *
               offset[j];
        }
      }
      largest = std::max(largest, d);
      double of_rank = 0;
      for (int64_t r = 0; r < 3; ++r) {
        double row = 0;
        for (int64_t c = 0; c < kWidth; ++c) {
          row += double{factor[r * kWidth + c]} * offset[c];
        }
        of_rank += row * row;
      }
      largest_of_rank = std::max(largest_of_rank, of_rank);
    }
    EXPECT_NEAR(layer.further[2], largest, 1e-3 * largest);
    EXPECT_NEAR(layer.further[3], largest_of_rank, 1e-3 * largest_of_rank);
    EXPECT_LT(layer.further[3], layer.further[2]);
  }
}

// Against the covariance within three clouds, written out.
TEST(SolvedRowsTest, DiscriminantsOfThePooledCovariance) {
  constexpr int64_t kC = 3;
  std::vector<Rows> clouds(3);
  uint64_t n = 0;
  for (size_t k = 0; k < clouds.size(); ++k) {
    for (size_t t = 0; t < 20 + 10 * k; ++t) {
      std::vector<double> x(kC);
      for (int64_t c = 0; c < kC; ++c) {
        x[c] = static_cast<double>(k + c) + Normal(8, n++);
      }
      clouds[k].push_back(x);
    }
  }
  std::vector<std::vector<double>> products(3), sums(3), means(3);
  std::vector<double> sigma(kC * kC);
  double tokens = 0;
  std::vector<MomentsView> parts;
  for (size_t k = 0; k < clouds.size(); ++k) {
    const auto size = static_cast<double>(clouds[k].size());
    sums[k].resize(kC);
    for (const auto& x : clouds[k]) {
      for (int64_t c = 0; c < kC; ++c) sums[k][c] += x[c];
    }
    for (const double s : sums[k]) means[k].push_back(s / size);
    for (int64_t i = 0; i < kC; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (const auto& x : clouds[k]) sum += x[i] * x[j];
        products[k].push_back(sum);
      }
    }
    for (const auto& x : clouds[k]) {
      for (int64_t i = 0; i < kC * kC; ++i) {
        sigma[i] += (x[i / kC] - means[k][i / kC]) *
                    (x[i % kC] - means[k][i % kC]);
      }
    }
    tokens += size;
    parts.push_back({products[k].data(), sums[k].data(), size});
  }
  double trace = 0;
  for (double& s : sigma) s /= tokens;
  for (int64_t c = 0; c < kC; ++c) trace += sigma[c * kC + c];
  for (int64_t c = 0; c < kC; ++c) sigma[c * kC + c] += 0.1 * trace / kC;
  const Discriminants got = SolveDiscriminants(parts, kC, 0.1);
  ASSERT_EQ(got.w.size(), 9u);
  for (size_t k = 0; k < 3; ++k) {
    double product = 0;
    for (int64_t i = 0; i < kC; ++i) {
      double back = 0;  // (Sigma + lambda I) w = mu
      for (int64_t j = 0; j < kC; ++j) {
        back += sigma[i * kC + j] * got.w[k * kC + j];
      }
      EXPECT_NEAR(back, means[k][i], 1e-9);
      product += got.w[k * kC + i] * means[k][i];
    }
    EXPECT_NEAR(got.c[k], -0.5 * product, 1e-9);
  }
  // Of a set alone, not of all.
  const Discriminants two = SolveDiscriminants({parts.data(), 2}, kC, 0.1);
  EXPECT_NE(two.w[0], got.w[0]);
}

// At full rank the gate's factor gives P again; below it, what P weighs of the
// leading directions.
TEST_F(StatisticsTest, FactorOfTheGate) {
  auto base = BaseDecoder(*base_);
  ASSERT_TRUE(base.ok());
  auto anchor = ComputeAnchor(*base, public_, 1 << 20);
  ASSERT_TRUE(anchor.ok());
  const AnchorLayer& layer = (*anchor)[1];
  const auto product = [&](int64_t rank, int64_t i, int64_t j) {
    const std::vector<float> g = GateFactor(
        layer.covariance.data(), layer.precision.data(), kWidth, rank);
    EXPECT_EQ(g.size(), static_cast<size_t>(rank * kWidth));
    double sum = 0;
    for (int64_t r = 0; r < rank; ++r) {
      sum += double{g[r * kWidth + i]} * g[r * kWidth + j];
    }
    return sum;
  };
  double largest = 0;
  for (const float p : layer.precision) {
    largest = std::max(largest, std::abs(double{p}));
  }
  for (int64_t i = 0; i < kWidth; i += 5) {
    for (int64_t j = 0; j < kWidth; j += 3) {
      EXPECT_NEAR(product(kWidth, i, j), layer.precision[i * kWidth + j],
                  1e-4 * largest);
    }
  }
  const std::vector<float> one = GateFactor(
      layer.covariance.data(), layer.precision.data(), kWidth, 1);
  const std::vector<float> four = GateFactor(
      layer.covariance.data(), layer.precision.data(), kWidth, 4);
  double along = 0, length = 0, other = 0;
  for (int64_t c = 0; c < kWidth; ++c) {
    along += double{one[c]} * four[c];
    length += double{one[c]} * one[c];
    other += double{four[c]} * four[c];
  }
  EXPECT_NEAR(std::abs(along), std::sqrt(length * other), 1e-4 * length);
}

// An owner added and taken out leaves no bit; a matrix that rounding made
// indefinite still has rows.
TEST(SolvedRowsTest, OrderAndRescue) {
  const double a[] = {4, 1, 3}, b[] = {1, 2};
  const double c[] = {2, 0, 5}, d[] = {-1, 0.5};
  const MomentsView first = {a, b}, second = {c, d};
  const std::vector<MomentsView> both = {first, second}, one = {first};
  const auto alone = SolveRows(one, 2, 1e-2);
  EXPECT_NE(SolveRows(both, 2, 1e-2)[0], alone[0]);
  EXPECT_EQ(SolveRows(one, 2, 1e-2), alone);
  // (A + I/100)^-1 b by hand, scaled to length 1.
  const double x = 3.01 * 1 - 1 * 2, y = 4.01 * 2 - 1 * 1;
  EXPECT_NEAR(alone[0], x / std::hypot(x, y), 1e-12);
  EXPECT_NEAR(alone[1], y / std::hypot(x, y), 1e-12);
  const double indefinite[] = {1, 1 + 1e-3, 1}, zero[] = {0, 0};
  const std::vector<MomentsView> odd = {{indefinite, b}, {a, zero}};
  const auto rows = SolveRows({odd.data(), 1}, 2, 1e-9);
  EXPECT_NEAR(std::hypot(rows[0], rows[1]), 1, 1e-12);
  EXPECT_EQ(SolveRows(odd, 2, 1e-2)[2], 0);  // nothing seen: no direction
}

TEST_F(StatisticsTest, OwnersNumbersAreTheFormulas) {
  auto base = BaseDecoder(*base_);
  auto pair = PairDecoder(*base_, expert_);
  ASSERT_TRUE(base.ok() && pair.ok());
  auto anchor = ComputeAnchor(*base, public_, 1 << 20);
  ASSERT_TRUE(anchor.ok());
  OwnerStatisticsOptions options;
  options.max_tokens = 25 * kWindow;
  options.smoothing = 0.7;
  options.quantile = 0.9;
  auto owner = ComputeOwnerStatistics(*base, *pair, *anchor, own_, options);
  ASSERT_TRUE(owner.ok()) << owner.status();
  ASSERT_EQ(owner->size(), 2u);
  for (size_t l = 0; l < 2; ++l) {
    const OwnerLayer& layer = (*owner)[l];
    const std::vector<double> mu = Mean(RouterInputs(*base, own_, 25, l));
    const Rows rows = RouterInputs(*pair, own_, 25, l);
    const std::vector<double> m = Mean(rows);
    for (int64_t c = 0; c < kWidth; ++c) {
      EXPECT_NEAR(layer.base_mean[c], mu[c], 1e-5);
      EXPECT_NEAR(layer.pair_mean[c], m[c], 1e-5);
    }
    std::vector<double> distances, state(kWidth);
    for (size_t t = 0; t < rows.size(); ++t) {
      const int64_t position = static_cast<int64_t>(t) % kWindow;
      for (int64_t c = 0; c < kWidth; ++c) {
        state[c] = position == 0 ? rows[t][c]
                                 : 0.7 * state[c] + 0.3 * rows[t][c];
      }
      if (position < 8) continue;
      double d = 0;
      for (int64_t i = 0; i < kWidth; ++i) {
        for (int64_t j = 0; j < kWidth; ++j) {
          d += (state[i] - m[i]) *
               static_cast<double>((*anchor)[l].precision[i * kWidth + j]) *
               (state[j] - m[j]);
        }
      }
      distances.push_back(d);
    }
    ASSERT_EQ(distances.size(), 25u * 12);
    std::sort(distances.begin(), distances.end());
    // Position 0.9 * 299 = 269.1 in sorted order.
    const double tau = distances[269] + 0.1 * (distances[270] - distances[269]);
    EXPECT_NEAR(layer.threshold, tau, 1e-4 * tau);
  }
}

// Noise goes on both means by the public deviations of every direction;
// thresholds are those of the means as published.
TEST_F(StatisticsTest, NoiseOnMeans) {
  auto base = BaseDecoder(*base_);
  auto pair = PairDecoder(*base_, expert_);
  ASSERT_TRUE(base.ok() && pair.ok());
  auto anchor = ComputeAnchor(*base, public_, 1 << 20);
  ASSERT_TRUE(anchor.ok());
  OwnerStatisticsOptions options;
  options.max_tokens = 25 * kWindow;
  options.smoothing = 0;
  options.quantile = 1;
  auto plain = ComputeOwnerStatistics(*base, *pair, *anchor, own_, options);
  ASSERT_TRUE(plain.ok());
  options.noise = 0.5;
  EXPECT_FALSE(
      ComputeOwnerStatistics(*base, *pair, *anchor, own_, options).ok());
  for (int64_t i = 0; i < 2 * 2 * kWidth; ++i) {
    options.normal.push_back(Normal(31, static_cast<uint64_t>(i)));
  }
  auto noisy = ComputeOwnerStatistics(*base, *pair, *anchor, own_, options);
  ASSERT_TRUE(noisy.ok()) << noisy.status();
  for (int64_t l = 0; l < 2; ++l) {
    const AnchorLayer& a = (*anchor)[l];
    const OwnerLayer &with = (*noisy)[l], &without = (*plain)[l];
    // n^T P n = noise^2 z^T z, whatever factor was taken.
    const auto length = [&](const std::vector<float>& x,
                            const std::vector<float>& y) {
      double sum = 0;
      for (int64_t i = 0; i < kWidth; ++i) {
        for (int64_t j = 0; j < kWidth; ++j) {
          sum += (double{x[i]} - y[i]) * double{a.precision[i * kWidth + j]} *
                 (double{x[j]} - y[j]);
        }
      }
      return sum;
    };
    const auto drawn = [&](int64_t which) {
      double sum = 0;
      for (int64_t c = 0; c < kWidth; ++c) {
        const double z = options.normal[(2 * l + which) * kWidth + c];
        sum += 0.25 * z * z;
      }
      return sum;
    };
    EXPECT_NEAR(length(with.base_mean, without.base_mean), drawn(0),
                1e-3 * drawn(0));
    EXPECT_NEAR(length(with.pair_mean, without.pair_mean), drawn(1),
                1e-3 * drawn(1));
    double largest = 0;
    const Rows rows = RouterInputs(*pair, own_, 25, l);
    for (size_t t = 0; t < rows.size(); ++t) {
      if (static_cast<int64_t>(t) % kWindow < 8) continue;
      double d = 0;
      for (int64_t i = 0; i < kWidth; ++i) {
        for (int64_t j = 0; j < kWidth; ++j) {
          d += (rows[t][i] - double{with.pair_mean[i]}) *
               double{a.precision[i * kWidth + j]} *
               (rows[t][j] - double{with.pair_mean[j]});
        }
      }
      largest = std::max(largest, d);
    }
    EXPECT_NEAR(with.threshold, largest, 1e-4 * largest);
    EXPECT_NE(with.threshold, without.threshold);
  }
}

// The bits belong to the documents: neither threads nor what lies behind
// max_tokens may move them.
TEST_F(StatisticsTest, SameBitsOnAnyThreadsAndWithMoreTextBehind) {
  auto base = BaseDecoder(*base_);
  ASSERT_TRUE(base.ok());
  const int threads = math::Threads();
  math::SetThreads(1);
  auto one = ComputeAnchor(*base, toy::Windows(3, 2, kWindow), 5 * kWindow);
  math::SetThreads(3);
  auto three = ComputeAnchor(*base, public_, 5 * kWindow);
  math::SetThreads(threads);
  ASSERT_TRUE(one.ok() && three.ok());
  for (size_t l = 0; l < one->size(); ++l) {
    EXPECT_EQ((*one)[l].mean, (*three)[l].mean);
    EXPECT_EQ((*one)[l].covariance, (*three)[l].covariance);
    EXPECT_EQ((*one)[l].precision, (*three)[l].precision);
  }
}

TEST_F(StatisticsTest, RefusesWhatCannotBeMeasured) {
  auto base = BaseDecoder(*base_);
  auto pair = PairDecoder(*base_, expert_);
  ASSERT_TRUE(base.ok() && pair.ok());
  EXPECT_FALSE(ComputeAnchor(*base, toy::Windows(0, 1, kWindow), 100).ok());
  EXPECT_FALSE(ComputeAnchor(*base, toy::Windows(20, 1, 65), 1000).ok());
  auto anchor = ComputeAnchor(*base, public_, 1000);
  ASSERT_TRUE(anchor.ok());
  EXPECT_FALSE(ComputeOwnerStatistics(*base, *pair, *anchor,
                                      toy::Windows(20, 1, 8), {})
                   .ok());
  anchor->pop_back();
  EXPECT_FALSE(ComputeOwnerStatistics(*base, *pair, *anchor, own_, {}).ok());
}

TEST(EigenTest, LeadingEigenvectors) {
  // b b^T + diagonal, whose spectrum has no simple form: by the definition.
  const int64_t n = 40, count = 5;
  std::vector<double> a(n * n), b(n * 6);
  for (int64_t i = 0; i < n * 6; ++i) b[i] = Normal(5, i);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t k = 0; k < 6; ++k) {
        a[i * n + j] += b[i * 6 + k] * b[j * 6 + k];
      }
      if (i == j) a[i * n + j] += 0.05 * static_cast<double>(i);
    }
  }
  const std::vector<double> v = LeadingEigenvectors(a, n, count);
  ASSERT_EQ(v.size(), static_cast<size_t>(n * count));
  double last = 1e9, sum = 0;
  for (int64_t e = 0; e < count; ++e) {
    const double* u = v.data() + e * n;
    std::vector<double> image(n);
    double value = 0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) image[i] += a[i * n + j] * u[j];
      value += image[i] * u[i];
    }
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_NEAR(image[i], value * u[i], 1e-3 * value);
    }
    for (int64_t f = 0; f <= e; ++f) {
      double dot = 0;
      for (int64_t i = 0; i < n; ++i) dot += u[i] * v[f * n + i];
      EXPECT_NEAR(dot, e == f ? 1 : 0, 1e-12);
    }
    EXPECT_LE(value, last);
    last = value;
    sum += value;
  }
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += a[i * n + i];
  EXPECT_LT(sum, trace);
  // The five largest of six strong directions leave less than their mean.
  EXPECT_GT(sum, 5 * (trace - sum - 0.05 * n * (n - 1) / 2));

  std::vector<double> diagonal(9);
  for (int64_t i = 0; i < 3; ++i) diagonal[i * 4] = static_cast<double>(i);
  const auto top = LeadingEigenvectors(diagonal, 3, 2);
  EXPECT_NEAR(std::abs(top[2]), 1, 1e-9);
  EXPECT_NEAR(std::abs(top[4]), 1, 1e-9);
  // Equal eigenvalues, and none at all: any orthonormal vectors.
  for (const double value : {1.0, 0.0}) {
    std::vector<double> round(20 * 20);
    for (int64_t i = 0; i < 20; ++i) round[i * 21] = value;
    const auto any = LeadingEigenvectors(round, 20, 2);
    double dot = 0, length = 0;
    for (int64_t i = 0; i < 20; ++i) {
      dot += any[i] * any[20 + i];
      length += any[i] * any[i];
    }
    EXPECT_NEAR(dot, 0, 1e-12);
    EXPECT_NEAR(length, 1, 1e-12);
  }
}

// Over the unit vectors, the shaped draws' outer products add up to a^-1.
TEST(CholeskyTest, ShapesDraws) {
  const int64_t n = 3;
  const std::vector<double> a = {4, 1, 0.5, 1, 3, -1, 0.5, -1, 2};
  std::vector<double> inverse = a, sum(n * n);
  ASSERT_TRUE(InvertPositive(inverse, n));
  for (int64_t k = 0; k < n; ++k) {
    std::vector<double> z(n);
    z[k] = 1;
    ASSERT_TRUE(ShapeByInverse(a, n, z.data()));
    for (int64_t i = 0; i < n * n; ++i) sum[i] += z[i / n] * z[i % n];
  }
  for (int64_t i = 0; i < n * n; ++i) EXPECT_NEAR(sum[i], inverse[i], 1e-12);
  double z[] = {1, 1};
  EXPECT_FALSE(ShapeByInverse({1, 2, 2, 1}, 2, z));
  EXPECT_EQ(z[0], 1);
}

TEST(CholeskyTest, InvertsAndRefuses) {
  const int64_t n = 37;
  std::vector<double> a(n * n), b(n * n);
  for (int64_t i = 0; i < n * n; ++i) b[i] = Normal(4, i);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t k = 0; k < n; ++k) {
        a[i * n + j] += b[i * n + k] * b[j * n + k];
      }
      if (i == j) a[i * n + j] += 0.1;
    }
  }
  std::vector<double> inverse = a;
  ASSERT_TRUE(InvertPositive(inverse, n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double product = 0;
      for (int64_t k = 0; k < n; ++k) {
        product += a[i * n + k] * inverse[k * n + j];
      }
      EXPECT_NEAR(product, i == j ? 1 : 0, 1e-9);
      EXPECT_EQ(inverse[i * n + j], inverse[j * n + i]);
    }
  }
  std::vector<double> indefinite = {1, 2, 2, 1};
  EXPECT_FALSE(InvertPositive(indefinite, 2));
  std::vector<double> nan = {std::nan("")};
  EXPECT_FALSE(InvertPositive(nan, 1));
}

}  // namespace
}  // namespace motet::learn
