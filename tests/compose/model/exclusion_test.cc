// SPDX-License-Identifier: Apache-2.0
// The guarantee of docs/exclusion.md on random tiny models: a query with
// expert set S gets, bit for bit, the logits of a decoder built from S alone.
// Every subset of four experts, both routers, all blocks, with and without
// attention experts, f32 and bf16 weights; whole, chunked and step by step; alone and among strangers; one
// and two threads. The last tests break the masking and see it noticed.
#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "compose/model/decoder.h"
#include "gtest/gtest.h"
#include "tests/compose/model/random_model.h"

namespace motet::model {
namespace {

using math::ExpertMask;
using math::Kernels;

constexpr int kExperts = 5;  // four and the base
constexpr int64_t kTokens = 53;
constexpr int64_t kLargeTokens = 150;

using Bits = std::vector<uint32_t>;  // of [tokens, V] logits
using Chunks = std::vector<int64_t>;

struct Case {
  Block block;
  Router::Kind router;
  bool bf16;
  bool reference;      // plain kernels instead of the fast ones
  bool large = false;  // past the kernels' blocks of keys, tiles and threads
  AttentionExperts attention = AttentionExperts::kNone;
};

std::string NameOf(const testing::TestParamInfo<Case>& info) {
  const char* blocks[] = {"PreNorm", "PostNorm", "Parallel"};
  const char* attention[] = {"", "OwnKv", "SharedKv"};
  return std::string(blocks[static_cast<int>(info.param.block)]) +
         attention[static_cast<int>(info.param.attention)] +
         (info.param.router == Router::Kind::kTopK ? "TopK" : "Anchored") +
         (info.param.bf16 ? "Bf16" : "F32") +
         (info.param.reference ? "Reference" : "Cpu") +
         (info.param.large ? "Large" : "");
}

// Made once a program.
const RandomModel& ModelOf(Block block, bool bf16 = false, bool large = false,
                           AttentionExperts attention = {}) {
  using Key = std::tuple<Block, bool, bool, AttentionExperts>;
  static std::map<Key, RandomModel> models;
  const Key key = {block, bf16, large, attention};
  if (!models.contains(key)) {
    models.emplace(key, MakeRandomModel(block, kExperts, bf16, 20261122, large,
                                        attention));
  }
  return models.at(key);
}

std::vector<int> ExpertsOf(ExpertMask mask) {
  std::vector<int> experts;
  for (int e = 0; e < kExperts; ++e) {
    if ((mask >> e & 1) != 0) experts.push_back(e);
  }
  return experts;
}

Decoder Make(const RandomModel& model, Router::Kind kind) {
  auto decoder = Decoder::Create(
      model.config, model.weights,
      kind == Router::Kind::kTopK ? model.top_k : model.anchored);
  MOTET_CHECK(decoder.ok());
  return *std::move(decoder);
}

// One forward of a batch; the logits of the sequence `which`.
Bits Evaluate(const Decoder& decoder, const Kernels& kernels,
              std::span<const SequenceInput> inputs, size_t which,
              Trace* trace = nullptr) {
  math::Arena arena(1 << 16);
  math::Exec exec(kernels, arena, math::Product::kExact);
  const Batch batch(inputs);
  const math::Tensor hidden = decoder.Forward(exec, batch, trace);
  const math::Tensor logits = decoder.Logits(exec, hidden);
  const int64_t rows = static_cast<int64_t>(inputs[which].ids.size());
  const math::Tensor own = logits.RowSlice(batch.first_row(which), rows);
  Bits bits(own.size());
  std::memcpy(bits.data(), own.data, own.bytes());
  if (trace != nullptr) *trace = Trace{};  // its views die with the arena
  return bits;
}

Bits Whole(const Decoder& decoder, const Kernels& kernels,
           const std::vector<int32_t>& ids, ExpertMask allowed) {
  const SequenceInput input = {ids, nullptr, allowed};
  return Evaluate(decoder, kernels, {&input, 1}, 0);
}

// The same through a cache, some tokens at a time.
Bits Chunked(const Decoder& decoder, const Kernels& kernels,
             const std::vector<int32_t>& ids, ExpertMask allowed,
             const Chunks& chunks) {
  // With attention experts: no room for those outside the set.
  SequenceCache cache(decoder.config(), static_cast<int64_t>(ids.size()),
                      decoder.config().experts, allowed);
  Bits all;
  size_t at = 0;
  for (size_t c = 0; at < ids.size(); c = (c + 1) % chunks.size()) {
    const size_t n = std::min(ids.size() - at, static_cast<size_t>(chunks[c]));
    const SequenceInput input = {{ids.data() + at, n}, &cache, allowed};
    const Bits bits = Evaluate(decoder, kernels, {&input, 1}, 0);
    all.insert(all.end(), bits.begin(), bits.end());
    at += n;
  }
  return all;
}

// Among sequences of other lengths, sets and caches, its place moving.
Bits Mixed(const Decoder& decoder, const Kernels& kernels,
           const std::vector<int32_t>& ids, ExpertMask allowed,
           const Chunks& chunks) {
  const ModelConfig& config = decoder.config();
  const ExpertMask others[] = {0b00001, 0b11111, 0b01011, allowed ^ 0b10100};
  std::vector<std::vector<int32_t>> texts;
  std::vector<SequenceCache> caches;
  for (size_t i = 0; i < std::size(others); ++i) {
    texts.push_back(RandomModel::Text(config, 100 + i, 60));
    caches.emplace_back(config, 200, config.experts);
  }
  SequenceCache cache(config, static_cast<int64_t>(ids.size()), config.experts);
  Bits all;
  size_t at = 0;
  for (size_t step = 0; at < ids.size(); ++step) {
    const size_t n = std::min(
        ids.size() - at, static_cast<size_t>(chunks[step % chunks.size()]));
    std::vector<SequenceInput> inputs;
    for (size_t i = 0; i < std::size(others); ++i) {
      // One in three without a cache; between 1 and 7 tokens of the others.
      const bool cached = (step + i) % 3 != 0;
      const size_t count = 1 + (3 * step + 2 * i) % 7;
      if (cached && caches[i].length() + count > 200) caches[i].Clear();
      inputs.push_back({{texts[i].data() + (step + i) % 50, count},
                        cached ? &caches[i] : nullptr,
                        others[i]});
    }
    const size_t place = step % (inputs.size() + 1);
    inputs.insert(inputs.begin() + place,
                  SequenceInput{{ids.data() + at, n}, &cache, allowed});
    const Bits bits = Evaluate(decoder, kernels, inputs, place);
    all.insert(all.end(), bits.begin(), bits.end());
    at += n;
  }
  return all;
}

class ExclusionTest : public testing::TestWithParam<Case> {
 protected:
  ExclusionTest()
      : model_(ModelOf(GetParam().block, GetParam().bf16, GetParam().large,
                       GetParam().attention)),
        composition_(Make(model_, GetParam().router)),
        kernels_(GetParam().reference ? math::Reference() : math::Cpu()),
        text_(RandomModel::Text(model_.config, 5,
                                GetParam().large ? kLargeTokens : kTokens)),
        threads_(math::Threads()) {}
  ~ExclusionTest() override { math::SetThreads(threads_); }

  const RandomModel& model_;
  Decoder composition_;
  const Kernels& kernels_;
  std::vector<int32_t> text_;
  int threads_;
};

TEST_P(ExclusionTest, EqualsTheModelBuiltWithoutTheExcluded) {
  const bool large = GetParam().large;
  const int64_t all = static_cast<int64_t>(text_.size());
  const Chunks odd = large ? Chunks{63, 2, 60} : Chunks{16, 1, 1, 5};
  std::vector<Bits> seen;
  for (ExpertMask owners = 0; owners < 16; ++owners) {
    if (large && owners % 5 != 0) continue;
    const ExpertMask allowed = owners << 1 | 1;
    SCOPED_TRACE(testing::Message() << "expert set "
                                    << static_cast<uint64_t>(allowed));
    const RandomModel built = BuildFrom(model_, ExpertsOf(allowed));
    const Decoder never = Make(built, GetParam().router);
    math::SetThreads(1);
    const Bits want = Whole(never, kernels_, text_, ~ExpertMask{0});
    for (const Chunks& chunks : {Chunks{all}, Chunks{1}, odd}) {
      EXPECT_EQ(Chunked(composition_, kernels_, text_, allowed, chunks), want);
    }
    EXPECT_EQ(Chunked(never, kernels_, text_, ~ExpertMask{0}, {3, 11}), want);
    EXPECT_EQ(Mixed(composition_, kernels_, text_, allowed, {all}), want);
    for (int threads : {1, 2}) {
      math::SetThreads(threads);
      EXPECT_EQ(Whole(never, kernels_, text_, ~ExpertMask{0}), want);
      EXPECT_EQ(Whole(composition_, kernels_, text_, allowed), want);
      EXPECT_EQ(Chunked(composition_, kernels_, text_, allowed, odd), want);
      EXPECT_EQ(Mixed(composition_, kernels_, text_, allowed, {1, 9, 40}),
                want);
    }
    // An expert set must matter, or the equalities above say nothing.
    EXPECT_EQ(std::count(seen.begin(), seen.end(), want), 0);
    seen.push_back(want);
  }
}

TEST_P(ExclusionTest, TheBaseAloneIsTheDenseModel) {
  const RandomModel dense = Dense(model_);
  const Decoder base = Make(dense, Router::Kind::kTopK);
  EXPECT_EQ(Whole(composition_, kernels_, text_, 1),
            Whole(base, kernels_, text_, 1));
  EXPECT_EQ(Whole(composition_, kernels_, text_, 0),  // the base stays
            Whole(base, kernels_, text_, 1));
}

TEST_P(ExclusionTest, AClearedCacheIsAsNew) {
  SequenceCache cache(model_.config, 200, kExperts);
  const SequenceInput input = {text_, &cache, 0b10110};
  const Bits first = Evaluate(composition_, kernels_, {&input, 1}, 0);
  EXPECT_EQ(cache.length(), static_cast<int64_t>(text_.size()));
  cache.Clear();
  EXPECT_EQ(cache.length(), 0);
  EXPECT_EQ(Evaluate(composition_, kernels_, {&input, 1}, 0), first);
}

TEST_P(ExclusionTest, WatchingChangesNothing) {
  Trace trace;
  const SequenceInput input = {text_, nullptr, 0b10111};
  EXPECT_EQ(Evaluate(composition_, kernels_, {&input, 1}, 0, &trace),
            Whole(composition_, kernels_, text_, 0b10111));
}

INSTANTIATE_TEST_SUITE_P(
    All, ExclusionTest, testing::ValuesIn([] {
      std::vector<Case> cases;
      for (Block block : {Block::kPreNorm, Block::kPostNorm}) {
        for (auto router : {Router::Kind::kTopK, Router::Kind::kAnchored}) {
          for (bool bf16 : {false, true}) {
            cases.push_back({block, router, bf16, false});
            cases.push_back({block, router, bf16, false, true});
          }
          cases.push_back({block, router, false, true});
        }
      }
      for (Block block :
           {Block::kPreNorm, Block::kPostNorm, Block::kParallel}) {
        for (auto attention :
             {AttentionExperts::kOwnKv, AttentionExperts::kSharedKv}) {
          const auto add = [&](Router::Kind router, bool bf16, bool reference,
                               bool large) {
            cases.push_back(
                {block, router, bf16, reference, large, attention});
          };
          add(Router::Kind::kTopK, false, false, false);
          add(Router::Kind::kTopK, false, true, false);
          add(Router::Kind::kTopK, true, false, true);
          add(Router::Kind::kAnchored, false, false, false);
        }
      }
      return cases;
    }()),
    NameOf);

// Whether the tests above could see anything: the random anchored parameters
// choose every expert, and the gate opens and closes.
TEST(ExclusionPremises, AnchoredRoutingTakesEveryBranch) {
  for (Block block : {Block::kPreNorm, Block::kPostNorm}) {
    const RandomModel& model = ModelOf(block);
    Router open = model.anchored;
    for (math::AnchoredLayer& layer : open.anchored) layer.gate = false;
    const Decoder gated = Make(model, Router::Kind::kAnchored);
    const Decoder ungated = *Decoder::Create(model.config, model.weights, open);
    const std::vector<int32_t> text =
        RandomModel::Text(model.config, 5, kTokens);
    const SequenceInput input = {text};
    const Batch batch({&input, 1});
    math::Arena arena;
    math::Exec exec(math::Cpu(), arena, math::Product::kExact);
    Trace with, without;
    gated.Forward(exec, batch, &with);
    ungated.Forward(exec, batch, &without);
    // Both saw the same input of the first layer, so a difference there is
    // the gate's.
    int closed = 0, base = 0;
    for (int64_t m = 0; m < kTokens; ++m) {
      const int32_t a = with.routing[0].idx.i32()[2 * m + 1];
      const int32_t b = without.routing[0].idx.i32()[2 * m + 1];
      EXPECT_TRUE(a == b || a == -1);
      closed += a != b;
      base += b == -1;
    }
    EXPECT_GT(closed, 0) << "the gate never closes";
    EXPECT_GT(base, 0) << "the base never wins";
    std::vector<int> chosen(kExperts);
    for (const math::Routing& routing : with.routing) {
      for (int64_t m = 0; m < kTokens; ++m) {
        const int32_t e = routing.idx.i32()[2 * m + 1];
        ++chosen[std::max(e, 0)];
      }
    }
    for (int e = 0; e < kExperts; ++e) {
      EXPECT_GT(chosen[e], 0) << "expert " << e << " is never chosen";
    }
  }
}

TEST(ExclusionPremises, TopKChoosesEveryExpert) {
  const RandomModel& model = ModelOf(Block::kPostNorm);
  const Decoder decoder = Make(model, Router::Kind::kTopK);
  const std::vector<int32_t> text = RandomModel::Text(model.config, 5, kTokens);
  const SequenceInput input = {text};
  const Batch batch({&input, 1});
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  Trace trace;
  decoder.Forward(exec, batch, &trace);
  std::vector<int> chosen(kExperts);
  for (const math::Routing& routing : trace.routing) {
    for (int64_t i = 0; i < routing.idx.size(); ++i) {
      ++chosen[routing.idx.i32()[i]];
    }
  }
  for (int count : chosen) EXPECT_GT(count, 0);
}

// The mutation that the guarantee forbids: softmax over all experts, the
// excluded ones' weights struck out afterwards.
void MaskAfterSoftmax(const math::Tensor& x, const math::RowLimits& limits,
                      bool renormalise, math::Tensor idx, math::Tensor w) {
  math::Cpu().top_k(x, limits, renormalise, idx, w);
  math::Arena arena(1 << 16);
  const math::Shape shape = {x.rows(), x.cols()};
  const math::Tensor all = arena.New(shape, math::DType::kI32);
  math::Tensor p = arena.New(shape);
  math::Cpu().top_k(x, {}, false, all, p);
  for (int64_t m = 0; m < x.rows(); ++m) {
    for (int64_t k = 0; k < idx.cols(); ++k) {
      for (int64_t j = 0; j < x.cols(); ++j) {
        if (all.i32()[m * x.cols() + j] == idx.i32()[m * idx.cols() + k]) {
          w.f32()[m * idx.cols() + k] = p.f32()[m * x.cols() + j];
        }
      }
    }
  }
}

TEST(ExclusionMutations, MaskingAfterTheSoftmaxIsNoticed) {
  Kernels mutant = math::Cpu();
  mutant.top_k = MaskAfterSoftmax;
  const RandomModel& model = ModelOf(Block::kPostNorm);
  const Decoder composition = Make(model, Router::Kind::kTopK);
  const std::vector<int32_t> text = RandomModel::Text(model.config, 5, kTokens);
  for (ExpertMask owners = 0; owners < 16; ++owners) {
    const ExpertMask allowed = owners << 1 | 1;
    const RandomModel built = BuildFrom(model, ExpertsOf(allowed));
    const Decoder never = Make(built, Router::Kind::kTopK);
    const Bits want = Whole(never, mutant, text, ~ExpertMask{0});
    const Bits got = Whole(composition, mutant, text, allowed);
    EXPECT_EQ(got == want, owners == 15)
        << "expert set " << static_cast<uint64_t>(allowed);
  }
}

// Keys, values and smoothing of a prefix that other experts answered: what a
// cache shared between expert sets would do.
TEST(ExclusionMutations, ACacheOfAnotherExpertSetIsNoticed) {
  for (auto router : {Router::Kind::kTopK, Router::Kind::kAnchored}) {
    const RandomModel& model = ModelOf(Block::kPostNorm);
    const Decoder decoder = Make(model, router);
    const std::vector<int32_t> text =
        RandomModel::Text(model.config, 5, kTokens);
    const std::span<const int32_t> ids = text;
    SequenceCache own(model.config, kTokens, kExperts);
    SequenceCache foreign(model.config, kTokens, kExperts);
    const SequenceInput a = {ids.first(20), &own, 0b00011};
    const SequenceInput b = {ids.first(20), &foreign, 0b11111};
    Evaluate(decoder, math::Cpu(), {&a, 1}, 0);
    Evaluate(decoder, math::Cpu(), {&b, 1}, 0);
    const SequenceInput c = {ids.subspan(20), &own, 0b00011};
    const SequenceInput d = {ids.subspan(20), &foreign, 0b00011};
    EXPECT_NE(Evaluate(decoder, math::Cpu(), {&c, 1}, 0),
              Evaluate(decoder, math::Cpu(), {&d, 1}, 0));
  }
}

}  // namespace
}  // namespace motet::model
