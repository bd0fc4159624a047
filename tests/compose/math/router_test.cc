// SPDX-License-Identifier: Apache-2.0
// What exclusion asks of the two routers: with experts masked, bit for bit
// the result of a composition that never had them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/compose/math/cases.h"

namespace motet::math {
namespace {

// One row of logits; the choice and its weights.
struct Choice {
  std::vector<int32_t> idx;
  std::vector<float> w;
};

Choice TopK(const Kernels& kernels, std::vector<float> logits, int64_t k,
            ExpertMask mask, bool renormalise) {
  Pool pool;
  Tensor x = pool.Zeros({1, static_cast<int64_t>(logits.size())});
  std::copy(logits.begin(), logits.end(), x.f32());
  Tensor idx = pool.Zeros({1, k}, DType::kI32), w = pool.Zeros({1, k});
  kernels.top_k(x, {{&mask, 1}, {}}, renormalise, idx, w);
  return {{idx.i32(), idx.i32() + k}, {w.f32(), w.f32() + k}};
}

constexpr ExpertMask kAll = ~ExpertMask{0};

TEST(TopKTest, WeightsAreTheSoftmaxOverTheAllowed) {
  for (const Kernels* k : {&Reference(), &Cpu()}) {
    const Choice all = TopK(*k, {1, 3, 2}, 2, kAll, false);
    EXPECT_EQ(all.idx, (std::vector<int32_t>{1, 2}));
    const double total = std::exp(-2.0) + 1 + std::exp(-1.0);
    EXPECT_FLOAT_EQ(all.w[0], 1 / total);
    EXPECT_FLOAT_EQ(all.w[1], std::exp(-1.0) / total);

    // Expert 1 is gone before the softmax: it takes no share.
    const Choice without = TopK(*k, {1, 3, 2}, 2, 0b101, false);
    EXPECT_EQ(without.idx, (std::vector<int32_t>{2, 0}));
    EXPECT_FLOAT_EQ(without.w[0] + without.w[1], 1);
    const Choice single = TopK(*k, {1, 3, 2}, 1, 0b101, false);
    EXPECT_FLOAT_EQ(single.w[0], 1 / (1 + std::exp(-1.0)));
  }
}

TEST(TopKTest, RenormalisedWeightsSumToOne) {
  for (const Kernels* k : {&Reference(), &Cpu()}) {
    const Choice c = TopK(*k, {1, 3, 2, -1}, 2, kAll, true);
    EXPECT_FLOAT_EQ(c.w[0], 1 / (1 + std::exp(-1.0)));
    EXPECT_FLOAT_EQ(c.w[0] + c.w[1], 1);
    EXPECT_EQ(TopK(*k, {1, 3}, 1, kAll, true).w[0], 1);
  }
}

TEST(TopKTest, TiesGoToTheLowestAndKIsClamped) {
  for (const Kernels* k : {&Reference(), &Cpu()}) {
    EXPECT_EQ(TopK(*k, {2, 5, 5, 5}, 2, kAll, false).idx,
              (std::vector<int32_t>{1, 2}));
    const Choice c = TopK(*k, {1, 2, 3}, 3, 0b011, false);
    EXPECT_EQ(c.idx, (std::vector<int32_t>{1, 0, -1}));
    EXPECT_EQ(c.w[2], 0);
    const Choice base = TopK(*k, {1, 9}, 2, 0b01, false);
    EXPECT_EQ(base.idx, (std::vector<int32_t>{0, -1}));
    EXPECT_EQ(base.w[0], 1);
    // Where no expert is in the set none is chosen; who may leave all out is
    // decided where sets are made (Batch, the policy gate).
    EXPECT_EQ(TopK(*k, {1, 9}, 2, 0, false).idx,
              (std::vector<int32_t>{-1, -1}));
  }
}

// By hand: a shared expert takes no place from the others, and has a share of
// the weight by its own logit.
TEST(TopKTest, SharedExpertsAreBesideTheBest) {
  const float logits[] = {-1, 3, 2, 0.5};
  const auto exp = [&](int e) { return std::exp(double{logits[e]}); };
  Pool pool;
  Tensor x = pool.Zeros({1, 4});
  std::copy(logits, logits + 4, x.f32());
  Tensor nulls = pool.Zeros({1, 2});
  nulls.f32()[0] = 2.5f, nulls.f32()[1] = 1;
  const auto choose = [&](const Kernels& kernels, const RowLimits& limits,
                          int64_t room, bool renormalise, const Tensor& z) {
    Tensor idx = pool.Zeros({1, room}, DType::kI32);
    Tensor w = pool.Zeros({1, room});
    if (z.empty()) {
      kernels.top_k(x, limits, renormalise, idx, w);
    } else {
      kernels.null_top_k(x, z, limits, idx, w);
    }
    return Choice{{idx.i32(), idx.i32() + room}, {w.f32(), w.f32() + room}};
  };
  const int32_t two = 2;
  const ExpertMask without = 0b1101;
  for (const Kernels* k : {&Reference(), &Cpu()}) {
    Choice c = choose(*k, {{}, {}, 0b1}, 3, false, {});
    const double all = exp(0) + exp(1) + exp(2) + exp(3);
    EXPECT_EQ(c.idx, (std::vector<int32_t>{1, 2, 0}));
    EXPECT_FLOAT_EQ(c.w[0], exp(1) / all);
    EXPECT_FLOAT_EQ(c.w[2], exp(0) / all);
    c = choose(*k, {{}, {}, 0b1}, 3, true, {});
    EXPECT_FLOAT_EQ(c.w[2], exp(0) / (exp(0) + exp(1) + exp(2)));
    // Among the best it is not chosen twice.
    c = choose(*k, {{}, {}, 0b10}, 3, false, {});
    EXPECT_EQ(c.idx, (std::vector<int32_t>{1, 2, 3}));
    // `active` counts the others; one that is not allowed is not there.
    c = choose(*k, {{}, {&two, 1}, 0b1}, 4, false, {});
    EXPECT_EQ(c.idx, (std::vector<int32_t>{1, 2, 0, -1}));
    c = choose(*k, {{&without, 1}, {}, 0b10}, 3, true, {});
    EXPECT_EQ(c.idx, (std::vector<int32_t>{2, 3, -1}));
    EXPECT_FLOAT_EQ(c.w[0] + c.w[1], 1);
    // Nulls of 2.5 and 1 take places from the others, never the shared one's:
    // of the best two beside it one is a null, of four two.
    c = choose(*k, {{}, {}, 0b1}, 3, true, nulls);
    EXPECT_EQ(c.idx, (std::vector<int32_t>{1, 0, -1}));
    EXPECT_FLOAT_EQ(c.w[1], exp(0) / (exp(0) + exp(1)));
    c = choose(*k, {{}, {}, 0b1}, 5, true, nulls);
    EXPECT_EQ(c.idx, (std::vector<int32_t>{1, 2, 0, -1, -1}));
    const ExpertMask base = 0b1;
    c = choose(*k, {{&base, 1}, {}, 0b1}, 3, true, nulls);
    EXPECT_EQ(c.idx, (std::vector<int32_t>{0, -1, -1}));
    EXPECT_EQ(c.w[0], 1);
  }
}

// Shared experts have no load: the loss is that of the others by themselves,
// whatever the shared one's logit.
TEST(LoadBalanceTest, LeavesSharedExpertsOut) {
  Random random(9);
  Pool pool;
  constexpr int64_t kRows = 30;
  Tensor x = pool.Normal({kRows, 4}, random);
  Tensor others = pool.Zeros({kRows, 3});
  for (int64_t m = 0; m < kRows; ++m) {
    std::copy_n(x.f32() + m * 4 + 1, 3, others.f32() + m * 3);
  }
  Tensor idx = pool.Zeros({kRows, 3}, DType::kI32), w = pool.Zeros({kRows, 3});
  Tensor own = pool.Zeros({kRows, 2}, DType::kI32), g = pool.Zeros({kRows, 2});
  for (const bool counts : {true, false}) {
    for (const Kernels* k : {&Reference(), &Cpu()}) {
      k->top_k(others, {}, true, own, g);
      std::vector<double> alone(4);
      const double want = k->load_balance(others, own, g, counts, 0, alone);
      for (const float logit : {-3.0f, 0.0f, 4.0f}) {
        for (int64_t m = 0; m < kRows; ++m) x.f32()[m * 4] = logit;
        k->top_k(x, {{}, {}, 0b1}, true, idx, w);
        std::vector<double> totals(5);
        EXPECT_NEAR(k->load_balance(x, idx, w, counts, 0b1, totals), want,
                    1e-5);
        EXPECT_EQ(totals[0], 0);
      }
    }
  }
}

// Every subset S of six experts: masked = built from S alone, in bits.
TEST(TopKTest, ExcludedEqualsNeverComposed) {
  Random random(1);
  Pool pool;
  constexpr int64_t kExperts = 6, kRows = 40;
  const Tensor x = pool.Normal({kRows, kExperts}, random);
  for (ExpertMask s = 1; s < 64; s += 2) {
    std::vector<int32_t> members;
    for (int32_t e = 0; e < kExperts; ++e) {
      if (s >> e & 1) members.push_back(e);
    }
    const int64_t count = static_cast<int64_t>(members.size());
    Tensor alone = pool.Zeros({kRows, count});
    for (int64_t m = 0; m < kRows; ++m) {
      for (int64_t i = 0; i < count; ++i) {
        alone.f32()[m * count + i] = x.f32()[m * kExperts + members[i]];
      }
    }
    const std::vector<ExpertMask> masks(kRows, s);
    for (bool renormalise : {false, true}) {
      for (int64_t k = 1; k <= 4; ++k) {
        Tensor idx = pool.Zeros({kRows, k}, DType::kI32);
        Tensor w = pool.Zeros({kRows, k});
        Tensor idx_alone = pool.Zeros({kRows, k}, DType::kI32);
        Tensor w_alone = pool.Zeros({kRows, k});
        for (const ExpertMask shared : {ExpertMask{0}, ExpertMask{1}}) {
          Cpu().top_k(x, {masks, {}, shared}, renormalise, idx, w);
          Cpu().top_k(alone, {{}, {}, shared}, renormalise, idx_alone,
                      w_alone);
          ASSERT_EQ(std::memcmp(w.data, w_alone.data, w.bytes()), 0);
          for (int64_t i = 0; i < kRows * k; ++i) {
            const int32_t own = idx_alone.i32()[i];
            ASSERT_EQ(idx.i32()[i], own < 0 ? -1 : members[own]);
          }
        }
      }
    }
  }
}

// A layer of random anchored routing whose gate is open about half the time.
struct Anchored {
  Anchored(int64_t experts, int64_t cols, Random& random) {
    layer.select = pool.Normal({experts, cols}, random);
    layer.offset = pool.Normal({experts}, random);
    layer.pair_mean = pool.Normal({experts, cols}, random, 0.1f);
    layer.threshold = pool.Zeros({experts});
    layer.precision = pool.Zeros({cols, cols});
    for (int64_t i = 0; i < cols; ++i) {
      layer.precision.f32()[i * cols + i] = 1;
      layer.precision.f32()[i * cols + (i + 1) % cols] = 0.2f;
    }
    for (int64_t e = 0; e < experts; ++e) {
      layer.threshold.f32()[e] = e == 0 ? INFINITY : 0.25f * cols;
    }
    layer.rows = pool.Normal({experts, cols}, random);
  }
  // The same layer of the experts in s alone.
  AnchoredLayer Only(ExpertMask s) {
    AnchoredLayer only = layer;
    std::vector<int64_t> members;
    for (int64_t e = 0; e < layer.select.rows(); ++e) {
      if (s >> e & 1) members.push_back(e);
    }
    for (Tensor AnchoredLayer::*part :
         {&AnchoredLayer::select, &AnchoredLayer::offset,
          &AnchoredLayer::pair_mean, &AnchoredLayer::threshold,
          &AnchoredLayer::rows}) {
      const Tensor& all = layer.*part;
      const int64_t cols = all.size() / layer.select.rows();
      Tensor few = pool.Zeros({static_cast<int64_t>(members.size()), cols});
      for (size_t i = 0; i < members.size(); ++i) {
        std::memcpy(few.f32() + i * cols, all.f32() + members[i] * cols,
                    cols * sizeof(float));
      }
      only.*part = few.Reshaped(
          all.shape.rank == 1
              ? Shape{static_cast<int64_t>(members.size())}
              : few.shape);
    }
    return only;
  }
  Pool pool;
  AnchoredLayer layer;
};

struct State {
  State(int64_t experts, int64_t cols) : scores(experts), hidden(cols) {}
  AnchoredState view() { return {scores.data(), hidden.data(), &started}; }
  std::vector<float> scores, hidden;
  bool started = false;
};

TEST(AnchoredRouteTest, ChunksGiveTheBitsOfTheWhole) {
  Random random(2);
  constexpr int64_t kExperts = 5, kCols = 33, kRows = 61;
  Anchored a(kExperts, kCols, random);
  const Tensor h = a.pool.Normal({kRows, kCols}, random);
  Tensor idx = a.pool.Zeros({kRows, 2}, DType::kI32);
  Tensor w = a.pool.Zeros({kRows, 2});
  State whole(kExperts, kCols);
  RouteSegment segment{0, kRows, 0b11011, whole.view()};
  Cpu().anchored_route(h, a.layer, {&segment, 1}, idx, w);
  int paired = 0;
  for (int64_t t = 0; t < kRows; ++t) paired += idx.i32()[2 * t + 1] > 0;
  EXPECT_GT(paired, 5);  // both outcomes occur, or nothing was tested
  EXPECT_LT(paired, kRows - 5);
  for (int64_t chunk : {1, 2, 7, 30}) {
    State state(kExperts, kCols);
    Tensor idx2 = a.pool.Zeros({kRows, 2}, DType::kI32);
    Tensor w2 = a.pool.Zeros({kRows, 2});
    for (int64_t t = 0; t < kRows; t += chunk) {
      const int64_t n = std::min(chunk, kRows - t);
      RouteSegment part{0, n, 0b11011, state.view()};
      Cpu().anchored_route(h.RowSlice(t, n), a.layer, {&part, 1},
                           idx2.RowSlice(t, n), w2.RowSlice(t, n));
    }
    EXPECT_EQ(std::memcmp(idx.data, idx2.data, idx.bytes()), 0) << chunk;
    EXPECT_EQ(std::memcmp(w.data, w2.data, w.bytes()), 0) << chunk;
    EXPECT_EQ(state.hidden, whole.hidden);
    EXPECT_EQ(state.scores, whole.scores);
  }
}

TEST(AnchoredRouteTest, ExcludedEqualsNeverComposed) {
  Random random(3);
  constexpr int64_t kExperts = 4, kCols = 24, kRows = 50;
  Anchored a(kExperts, kCols, random);
  const Tensor h = a.pool.Normal({kRows, kCols}, random);
  for (const Kernels* kernels : {&Reference(), &Cpu()}) {
    for (ExpertMask s = 1; s < 16; s += 2) {
      std::vector<int32_t> members;
      for (int32_t e = 0; e < kExperts; ++e) {
        if (s >> e & 1) members.push_back(e);
      }
      Tensor idx = a.pool.Zeros({kRows, 2}, DType::kI32);
      Tensor w = a.pool.Zeros({kRows, 2});
      Tensor idx2 = a.pool.Zeros({kRows, 2}, DType::kI32);
      Tensor w2 = a.pool.Zeros({kRows, 2});
      RouteSegment masked{0, kRows, s, {}}, all{0, kRows, kAll, {}};
      kernels->anchored_route(h, a.layer, {&masked, 1}, idx, w);
      kernels->anchored_route(h, a.Only(s), {&all, 1}, idx2, w2);
      ASSERT_EQ(std::memcmp(w.data, w2.data, w.bytes()), 0);
      for (int64_t i = 0; i < 2 * kRows; ++i) {
        const int32_t own = idx2.i32()[i];
        ASSERT_EQ(idx.i32()[i], own < 0 ? -1 : members[own]);
      }
    }
  }
}

// G with G^T G = P decides as P does; one that sees a single direction decides
// by it alone.
TEST(AnchoredRouteTest, TheGateOfARank) {
  Random random(5);
  constexpr int64_t kCols = 16, kRows = 60;
  Anchored a(2, kCols, random);
  std::fill_n(a.layer.precision.f32(), kCols * kCols, 0.0f);
  Tensor root = a.pool.Zeros({kCols, kCols});
  for (int64_t c = 0; c < kCols; ++c) {
    a.layer.precision.f32()[c * kCols + c] = static_cast<float>(c + 1);
    root.f32()[c * kCols + c] = std::sqrt(static_cast<float>(c + 1));
  }
  a.layer.threshold.f32()[1] = 20;
  const Tensor h = a.pool.Normal({kRows, kCols}, random);
  RouteSegment segment{0, kRows, kAll, {}};
  for (const Kernels* kernels : {&Reference(), &Cpu()}) {
    const auto paired = [&](const AnchoredLayer& layer) {
      Tensor idx = a.pool.Zeros({kRows, 2}, DType::kI32);
      Tensor w = a.pool.Zeros({kRows, 2});
      kernels->anchored_route(h, layer, {&segment, 1}, idx, w);
      std::vector<bool> out;
      for (int64_t t = 0; t < kRows; ++t) {
        out.push_back(idx.i32()[2 * t + 1] > 0);
      }
      return out;
    };
    AnchoredLayer open = a.layer, full = a.layer;
    open.gate = false;
    full.factor = root;
    full.precision = Tensor{};
    EXPECT_EQ(paired(full), paired(a.layer));
    EXPECT_NE(paired(full), paired(open));

    AnchoredLayer one = a.layer;
    one.factor = root.RowSlice(3, 1);
    Tensor threshold = a.pool.Zeros({2});
    threshold.f32()[1] = 0.4f;
    one.threshold = threshold;
    std::vector<bool> want = paired(open);
    double hidden = 0;
    for (int64_t t = 0; t < kRows; ++t) {
      const double x = h.f32()[t * kCols + 3];
      hidden = t == 0 ? x : 0.8 * hidden + 0.2 * x;
      const double d = hidden - a.layer.pair_mean.f32()[kCols + 3];
      want[t] = want[t] && 4 * d * d <= 0.4;
    }
    EXPECT_EQ(paired(one), want);
    EXPECT_NE(want, paired(open));
    EXPECT_NE(want, std::vector<bool>(kRows, false));
  }
}

TEST(AnchoredRouteTest, TheGateSendsUnlikeTextToTheBase) {
  Random random(4);
  Anchored a(3, 16, random);
  Tensor h = a.pool.Normal({20, 16}, random);
  for (int64_t i = 0; i < h.size(); ++i) h.f32()[i] *= 100;
  Tensor idx = a.pool.Zeros({20, 2}, DType::kI32), w = a.pool.Zeros({20, 2});
  RouteSegment segment{0, 20, kAll, {}};
  for (const Kernels* kernels : {&Reference(), &Cpu()}) {
    a.layer.gate = true;
    kernels->anchored_route(h, a.layer, {&segment, 1}, idx, w);
    for (int64_t t = 0; t < 20; ++t) {
      EXPECT_EQ(idx.i32()[2 * t], 0);
      EXPECT_EQ(idx.i32()[2 * t + 1], -1);
      EXPECT_EQ(w.f32()[2 * t], 1);
      EXPECT_EQ(w.f32()[2 * t + 1], 0);
    }
    a.layer.gate = false;
    kernels->anchored_route(h, a.layer, {&segment, 1}, idx, w);
    int paired = 0;
    for (int64_t t = 0; t < 20; ++t) {
      paired += idx.i32()[2 * t + 1] > 0;
      EXPECT_FLOAT_EQ(w.f32()[2 * t] + w.f32()[2 * t + 1], 1);
    }
    EXPECT_GT(paired, 0);
  }
}

}  // namespace
}  // namespace motet::math
