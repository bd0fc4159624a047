// SPDX-License-Identifier: Apache-2.0
// The exclusion guarantee for the router's kinds beside plain top-k and
// anchored routing (exclusion_test.cc has those at length): top-p, null
// experts, numbers of active experts of a sequence's own, the prefix mean and
// switching. Every answer with a set S is that of a model built from S, whole,
// in pieces, and in a batch whose other sequences ask for other numbers.
#include <cstring>
#include <string>
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
