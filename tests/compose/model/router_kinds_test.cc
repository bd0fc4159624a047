// SPDX-License-Identifier: Apache-2.0
// The exclusion guarantee for the router's kinds beside plain top-k and
// anchored routing (exclusion_test.cc has those at length): top-p, null
// experts, a shared base, numbers of active experts of a sequence's own, the
// prefix mean and switching. Every answer with a set S is that of a model built
// from S, whole, in pieces, and in a batch whose other sequences ask for other
// numbers.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/compose/model/random_model.h"

namespace motet::model {
namespace {

using math::ExpertMask;
using Bits = std::vector<uint32_t>;

constexpr int64_t kExperts = 5, kTokens = 60;

struct Variant {
  std::string name;
  void (*change)(Router& router);
  int32_t active = 0;
  bool anchored = false;
};

const Variant kVariants[] = {
    {"TopP",
     [](Router& r) {
       r.kind = Router::Kind::kTopP;
       r.top_p = 0.6;
     }},
    {"TopPAtMostTwo",
     [](Router& r) {
       r.kind = Router::Kind::kTopP;
       r.top_p = 1;
     },
     2},
    {"NullExperts",
     [](Router& r) {
       r.k = 3;
       r.null_experts = 2;
     }},
    {"SharedBase",
     [](Router& r) {
       r.k = 2;
       r.shared = true;
     }},
    {"SharedBaseAndNulls",
     [](Router& r) {
       r.k = 3;
       r.null_experts = 2;
       r.shared = true;
     }},
    {"SharedBaseOneActive", [](Router& r) { r.shared = true; }, 1},
    {"ThreeActive", [](Router&) {}, 3},
    {"OneActive", [](Router&) {}, 1},
    {"PrefixMean",
     [](Router& r) {
       for (math::AnchoredLayer& l : r.anchored) l.prefix_mean = true;
     },
     0, true},
    {"Switch",
     [](Router& r) {
       for (math::AnchoredLayer& l : r.anchored) l.pair = false;
     },
     0, true},
};

Decoder Make(const RandomModel& model, const Variant& variant) {
  Router router = variant.anchored ? model.anchored : model.top_k;
  variant.change(router);
  auto decoder = Decoder::Create(model.config, model.weights, router);
  MOTET_CHECK(decoder.ok());
  return *std::move(decoder);
}

// The logits of inputs[which].
Bits Evaluate(const Decoder& decoder, std::span<const SequenceInput> inputs,
              size_t which, Trace* trace = nullptr) {
  math::Arena arena(1 << 16);
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  const Batch batch(inputs);
  const math::Tensor hidden = decoder.Forward(exec, batch, trace);
  const math::Tensor logits = decoder.Logits(exec, hidden);
  const math::Tensor own =
      logits.RowSlice(batch.first_row(which),
                      static_cast<int64_t>(inputs[which].ids.size()));
  Bits bits(own.size());
  std::memcpy(bits.data(), own.data, own.bytes());
  return bits;
}

class RouterKinds : public testing::TestWithParam<Variant> {
 protected:
  static const RandomModel& Model() {
    static const RandomModel model =
        MakeRandomModel(Block::kPostNorm, kExperts, false, 20261125);
    return model;
  }
};

TEST_P(RouterKinds, ExcludedEqualsNeverComposed) {
  const Variant& variant = GetParam();
  const Decoder whole = Make(Model(), variant);
  const std::vector<int32_t> ids =
      RandomModel::Text(Model().config, 3, kTokens);
  const std::vector<int32_t> other =
      RandomModel::Text(Model().config, 4, kTokens / 2);
  std::vector<Bits> distinct;
  for (ExpertMask owners = 0; owners < 16; ++owners) {
    const ExpertMask set = owners << 1 | 1;
    std::vector<int> members;
    for (int e = 0; e < kExperts; ++e) {
      if (set >> e & 1) members.push_back(e);
    }
    const RandomModel built = BuildFrom(Model(), members);
    const SequenceInput alone = {ids, nullptr, ~ExpertMask{0}, variant.active};
    const Bits want = Evaluate(Make(built, variant), {&alone, 1}, 0);
    const SequenceInput masked = {ids, nullptr, set, variant.active};
    ASSERT_EQ(Evaluate(whole, {&masked, 1}, 0), want) << "set " << int(set);

    // In pieces, among sequences with sets and numbers of their own.
    SequenceCache cache(Model().config, kTokens, kExperts);
    Bits pieces;
    for (size_t at = 0; at < ids.size();) {
      const size_t n = std::min<size_t>(7, ids.size() - at);
      const int32_t theirs = variant.anchored ? 0 : 4;
      const SequenceInput inputs[] = {
          {other, nullptr, ~ExpertMask{0}, theirs},
          {{ids.data() + at, n}, &cache, set, variant.active},
          {other, nullptr, 0b00110, 0}};
      const Bits bits = Evaluate(whole, inputs, 1);
      pieces.insert(pieces.end(), bits.begin(), bits.end());
      at += n;
    }
    ASSERT_EQ(pieces, want) << "set " << int(set);
    distinct.push_back(want);
  }
  // Else nothing was shown: the sets matter.
  EXPECT_NE(distinct.front(), distinct.back());
}

INSTANTIATE_TEST_SUITE_P(All, RouterKinds, testing::ValuesIn(kVariants),
                         [](const auto& info) { return info.param.name; });

// How many choices each row of a text takes.
std::vector<int> Counts(const Decoder& decoder, const SequenceInput& input) {
  math::Arena arena(1 << 16);
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  const Batch batch({&input, 1});
  Trace trace;
  decoder.Forward(exec, batch, &trace);
  const math::Tensor& idx = trace.routing[0].idx;
  std::vector<int> counts(idx.rows());
  for (int64_t i = 0; i < idx.size(); ++i) {
    counts[i / idx.cols()] += idx.i32()[i] >= 0;
  }
  return counts;
}

TEST(ActiveTest, ASequenceGetsTheNumberItAsksFor) {
  const RandomModel model =
      MakeRandomModel(Block::kPreNorm, kExperts, false, 7);
  const auto decoder =
      Decoder::Create(model.config, model.weights, model.top_k);
  const std::vector<int32_t> ids = RandomModel::Text(model.config, 3, 20);
  for (int32_t active = 1; active <= 7; ++active) {
    const SequenceInput input = {ids, nullptr, 0b01111, active};
    for (int count : Counts(*decoder, input)) {
      EXPECT_EQ(count, std::min(active, 4));
    }
  }
}

TEST(ActiveTest, NullsTakeChoicesAndTopPTakesWhatItNeeds) {
  const RandomModel model =
      MakeRandomModel(Block::kPostNorm, kExperts, false, 7);
  const std::vector<int32_t> ids = RandomModel::Text(model.config, 3, 60);
  const SequenceInput input = {ids};
  for (const bool nulls : {true, false}) {
    Router router = model.top_k;
    router.k = 3;
    if (nulls) {
      router.null_experts = 2;
    } else {
      router.kind = Router::Kind::kTopP;
      router.top_p = 0.7;
    }
    const auto decoder = Decoder::Create(model.config, model.weights, router);
    const std::vector<int> counts = Counts(*decoder, input);
    const auto [least, most] = std::ranges::minmax(counts);
    EXPECT_LT(least, most);
    EXPECT_GE(least, 0);
    EXPECT_LE(most, nulls ? 3 : kExperts);
  }
}

// What layer 0 adds for each row, [M,C]: pre-norm, so that it is what tells
// two routers apart that see the same input.
std::vector<double> Added(const Decoder& decoder, const SequenceInput& input,
                          Trace& trace, math::Arena& arena) {
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  decoder.Forward(exec, Batch({&input, 1}), &trace);
  const math::Tensor& t = trace.hidden[1];
  return {t.f32(), t.f32() + t.size()};
}

// W_down (silu(W_gate x) * W_up x), in double.
std::vector<double> PlainFfn(const FfnWeights& ffn, const float* x) {
  const int64_t wide = ffn.gate.rows(), width = ffn.gate.cols();
  std::vector<double> y(width);
  for (int64_t f = 0; f < wide; ++f) {
    double g = 0, u = 0;
    for (int64_t c = 0; c < width; ++c) {
      g += double{ffn.gate.f32()[f * width + c]} * x[c];
      u += double{ffn.up.f32()[f * width + c]} * x[c];
    }
    const double h = g / (1 + std::exp(-g)) * u;
    for (int64_t c = 0; c < width; ++c) {
      y[c] += double{ffn.down.f32()[c * wide + f]} * h;
    }
  }
  return y;
}

// y = w_0 FFN_0(x) + sum over the k best others w_e FFN_e(x), by hand from
// the router's input; w a softmax over the set, or over those chosen.
TEST(SharedBaseTest, IsThePlainFormula) {
  const RandomModel model =
      MakeRandomModel(Block::kPreNorm, kExperts, false, 7);
  const std::vector<int32_t> ids = RandomModel::Text(model.config, 3, 40);
  const LayerWeights& layer = model.weights.layers[0];
  const int64_t width = model.config.width;
  for (const bool renormalise : {true, false}) {
    for (const ExpertMask set : {0b11111, 0b11011, 0b00011}) {
      Router router = model.top_k;
      router.k = 2;
      router.renormalise = renormalise;
      router.shared = true;
      const auto decoder =
          Decoder::Create(model.config, model.weights, router);
      ASSERT_TRUE(decoder.ok()) << decoder.status();
      math::Arena arena(1 << 16);
      Trace trace, alone;
      const std::vector<double> got =
          Added(*decoder, {ids, nullptr, set}, trace, arena);
      const std::vector<double> base =
          Added(*decoder, {ids, nullptr, 1}, alone, arena);
      int unlike = 0;  // rows whose plain top-k has no base
      for (int64_t m = 0; m < static_cast<int64_t>(ids.size()); ++m) {
        const float* x = trace.router_input[0].f32() + m * width;
        std::vector<std::pair<double, int>> others;
        std::vector<double> logits(kExperts);
        double total = 0;
        for (int e = 0; e < kExperts; ++e) {
          if ((set >> e & 1) == 0) continue;
          for (int64_t c = 0; c < width; ++c) {
            logits[e] += double{layer.router.f32()[e * width + c]} * x[c];
          }
          if (e > 0) others.push_back({-logits[e], e});
          if (!renormalise) total += std::exp(logits[e]);
        }
        std::sort(others.begin(), others.end());
        std::vector<int> chosen = {0};
        for (size_t i = 0; i < others.size() && i < 2; ++i) {
          chosen.push_back(others[i].second);
        }
        unlike += others.size() > 2 && -others[2].first > logits[0];
        if (renormalise) {
          for (int e : chosen) total += std::exp(logits[e]);
        }
        std::vector<double> want(width);
        for (int e : chosen) {
          const std::vector<double> y = PlainFfn(layer.experts[e], x);
          for (int64_t c = 0; c < width; ++c) {
            want[c] += std::exp(logits[e]) / total * y[c];
          }
        }
        const std::vector<double> own = PlainFfn(layer.experts[0], x);
        for (int64_t c = 0; c < width; ++c) {
          ASSERT_NEAR(got[m * width + c] - base[m * width + c],
                      want[c] - own[c], 1e-5)
              << "row " << m << " of set " << int(set);
        }
      }
      EXPECT_TRUE(set != 0b11111 || unlike > 0);
    }
  }
}

TEST(SharedBaseTest, IsBesideTheNumberThatASequenceAsksFor) {
  const RandomModel model =
      MakeRandomModel(Block::kPostNorm, kExperts, false, 7);
  const std::vector<int32_t> ids = RandomModel::Text(model.config, 3, 60);
  Router router = model.top_k;
  router.shared = true;
  const auto decoder = Decoder::Create(model.config, model.weights, router);
  for (int32_t active = 1; active <= 7; ++active) {
    for (int count : Counts(*decoder, {ids, nullptr, 0b01111, active})) {
      EXPECT_EQ(count, 1 + std::min(active, 3));
    }
    for (int count : Counts(*decoder, {ids, nullptr, 0b00001, active})) {
      EXPECT_EQ(count, 1);
    }
  }
  // In two chunks, both of the base's and one more.
  const RandomModel even = MakeRandomModel(Block::kPostNorm, 4, false, 7);
  router = even.top_k;
  router.k = 1;
  router.shared = true;
  router.chunks = 2;
  const auto cut = Decoder::Create(even.config, even.weights, router);
  ASSERT_TRUE(cut.ok()) << cut.status();
  for (int count : Counts(*cut, {ids})) EXPECT_EQ(count, 3);
  for (int count : Counts(*cut, {ids, nullptr, 0b01})) EXPECT_EQ(count, 2);
}

TEST(RouterChecks, ASharedBaseIsTopKsAndInEverySet) {
  const RandomModel model =
      MakeRandomModel(Block::kPostNorm, kExperts, false, 7);
  const auto refused = [&](Router router) {
    router.shared = true;
    return !Decoder::Create(model.config, model.weights, router).ok();
  };
  Router top_p = model.top_k, optional = model.top_k;
  top_p.kind = Router::Kind::kTopP;
  optional.base_always = false;
  EXPECT_TRUE(refused(top_p));
  EXPECT_TRUE(refused(model.anchored));
  EXPECT_TRUE(refused(optional));
  EXPECT_FALSE(refused(model.top_k));
}

TEST(RouterChecks, NamesWhatDoesNotFit) {
  const RandomModel model =
      MakeRandomModel(Block::kPostNorm, kExperts, false, 7);
  Router router = model.top_k;
  router.kind = Router::Kind::kTopP;
  router.top_p = 1.5;
  router.null_experts = -1;
  const absl::Status status =
      Decoder::Create(model.config, model.weights, router).status();
  EXPECT_NE(status.message().find("top_p = 1.5"), std::string::npos);
  EXPECT_NE(status.message().find("null_experts = -1"), std::string::npos);
}

}  // namespace
}  // namespace motet::model
