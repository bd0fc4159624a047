// SPDX-License-Identifier: Apache-2.0
// The exclusion guarantee on random tiny compositions: for every subset of
// experts, a query that allows only these equals, bit for bit, a composition
// that was built from these alone.
#include "compose/assemble/composition.h"

#include <cmath>
#include <cstring>

#include "compose/assemble/dume.h"
#include "compose/measure/exclusion.h"
#include "gmock/gmock.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::assemble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<int> Positions(math::ExpertMask mask) {
  std::vector<int> positions;
  for (int e = 1; e < 64; ++e) {
    if (mask >> e & 1) positions.push_back(e);
  }
  return positions;
}

class ExclusionTest
    : public testing::TestWithParam<std::tuple<model::Block, std::string>> {};

TEST_P(ExclusionTest, EverySubsetEqualsItsOwnComposition) {
  TinyOptions options;
  options.block = std::get<0>(GetParam());
  const TinyFederation federation(options);
  const v1::CompositionLock lock = federation.Lock(std::get<1>(GetParam()));
  const auto whole = federation.Load(lock);
  ASSERT_NE(whole, nullptr);
  const std::vector<int32_t> ids = federation.Ids(70);
  for (math::ExpertMask mask = 1; mask < 32; mask += 2) {
    LoadOptions only;
    only.all = false;
    only.only = Positions(mask);
    const auto alone = federation.Load(lock, only);
    ASSERT_NE(alone, nullptr);
    EXPECT_EQ(alone->lock.experts_size() + 1,
              static_cast<int>(__builtin_popcountll(mask)));
    const std::string want =
        measure::LogitsSha256(*alone->decoder, ids, alone->All(), 0);
    EXPECT_EQ(want, measure::LogitsSha256(*whole->decoder, ids, mask, 0))
        << "set " << static_cast<uint64_t>(mask);
    EXPECT_EQ(want, measure::LogitsSha256(*whole->decoder, ids, mask, 16))
        << "set " << static_cast<uint64_t>(mask) << " in pieces";
    EXPECT_EQ(want,
              measure::LogitsSha256(*alone->decoder, ids, alone->All(), 5))
        << "set " << static_cast<uint64_t>(mask) << " alone, in pieces";
  }
  // The sets are not all the same to this prompt.
  EXPECT_NE(measure::LogitsSha256(*whole->decoder, ids, 31, 0),
            measure::LogitsSha256(*whole->decoder, ids, 1, 0));
}

INSTANTIATE_TEST_SUITE_P(
    All, ExclusionTest,
    testing::Combine(testing::Values(model::Block::kPostNorm,
                                     model::Block::kPreNorm),
                     testing::Values("anchored", "topk", "topp", "nulls",
                                     "shared", "shared_nulls", "switch",
                                     "prefix", "dume", "dume_topp",
                                     "dume_shared", "rank", "pooled")),
    [](const auto& info) {
      return absl::StrCat(std::get<0>(info.param) == model::Block::kPostNorm
                              ? "postnorm_"
                              : "prenorm_",
                          std::get<1>(info.param));
    });

// Experts that were trained alone: their rows are means, and so is the
// base's, made from the base only.
TEST(AloneTest, EverySubsetEqualsItsOwnComposition) {
  TinyOptions options;
  options.alone = 4;
  const TinyFederation federation(options);
  const std::vector<int32_t> ids = federation.Ids(40);
  for (const char* router : {"topk", "switch", "topp"}) {
    const v1::CompositionLock lock = federation.Lock(router);
    EXPECT_EQ(lock.router().rows(), "domain_mean");
    const auto whole = federation.Load(lock);
    ASSERT_NE(whole, nullptr);
    for (math::ExpertMask mask = 1; mask < 32; mask += 2) {
      const auto alone =
          federation.Load(lock, {.all = false, .only = Positions(mask)});
      ASSERT_NE(alone, nullptr);
      EXPECT_EQ(measure::LogitsSha256(*alone->decoder, ids, alone->All(), 0),
                measure::LogitsSha256(*whole->decoder, ids, mask, 7))
          << router << " " << static_cast<uint64_t>(mask);
    }
    const math::Tensor row =
        whole->decoder->weights().layers[1].router.RowSlice(0, 1);
    const auto anchor = package::SafetensorsFile::Open(
        federation.base().folder + "/anchor.safetensors");
    ASSERT_TRUE(anchor.ok()) << anchor.status();
    const math::Tensor mean = (*anchor)->Find("layers.1.mean");
    double square = 0, dot = 0, length = 0;
    for (int64_t c = 0; c < row.size(); ++c) {
      square += double{row.f32()[c]} * row.f32()[c];
      length += double{mean.f32()[c]} * mean.f32()[c];
      dot += double{row.f32()[c]} * mean.f32()[c];
    }
    EXPECT_NEAR(square, 1, 1e-5);
    EXPECT_NEAR(dot, std::sqrt(length), 1e-5);
  }
}

class CompositionTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { federation_ = new TinyFederation; }
  static void TearDownTestSuite() { delete federation_; }
  const TinyFederation& f() { return *federation_; }
  static TinyFederation* federation_;
};
TinyFederation* CompositionTest::federation_ = nullptr;

TEST_F(CompositionTest, BaseAloneIsTheDenseBase) {
  const auto composition = f().Load(f().Lock("topk"));
  const auto dense = model::Decoder::Create(
      composition->base->config, composition->base->weights, {});
  ASSERT_TRUE(dense.ok()) << dense.status();
  const auto ids = f().Ids(40);
  EXPECT_EQ(measure::LogitsSha256(*dense, ids, 1, 0),
            measure::LogitsSha256(*composition->decoder, ids, 1, 0));
}

// Whatever the router says: weights of one FFN that sum to 1 are that FFN.
TEST(IdenticalExperts, AreTheDenseModelUnderEveryRouter) {
  for (const model::Block block :
       {model::Block::kPreNorm, model::Block::kPostNorm}) {
    TinyOptions options;
    options.block = block;
    options.copies = true;
    options.widths = {24};  // the base's
    const TinyFederation same(options);
    for (const char* router :
         {"anchored", "switch", "prefix", "topk", "shared", "shared_nulls",
          "topp", "dume", "dume_shared"}) {
      Recipe recipe = TinyFederation::RecipeFor(same.experts(), router);
      if (recipe.router.kind != "anchored") recipe.router.renormalise = true;
      if (recipe.router.kind == "anchored") recipe.router.gate = false;
      const Plan plan = MakePlan(recipe, same.base(), same.experts());
      ASSERT_THAT(plan.problems, testing::IsEmpty()) << router;
      const auto composed = same.Load(plan.lock);
      ASSERT_NE(composed, nullptr) << router;
      const auto dense = model::Decoder::Create(same.config(),
                                                composed->base->weights, {});
      ASSERT_TRUE(dense.ok()) << dense.status();
      const auto want = LogitsOf(*dense, same.Ids(30), 1);
      const auto got =
          LogitsOf(*composed->decoder, same.Ids(30), composed->All());
      ASSERT_EQ(got.size(), want.size());
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], want[i], 2e-5) << router << " " << i;
      }
    }
  }
}

// Rows of a set are those of a composition that never had anyone else: an
// owner added and taken out again leaves no bit. And they do depend on it.
TEST_F(CompositionTest, SolvedRowsAreOfTheSetAlone) {
  const v1::CompositionLock lock = f().Lock("dume");
  EXPECT_EQ(lock.router().rows(), "solved");
  const auto whole = f().Load(lock);
  const auto three = f().Load(lock, {.all = false, .only = {1, 3, 4}});
  ASSERT_NE(whole, nullptr);
  ASSERT_NE(three, nullptr);
  const auto of_set = whole->decoder->router().rows->For(0b11011);
  const auto of_all = whole->decoder->router().rows->For(0b11111);
  const auto alone = three->decoder->router().rows->For(0b1111);
  const int64_t width = f().config().width;
  const int members[] = {0, 1, 3, 4};
  for (size_t l = 0; l < of_set->rows.size(); ++l) {
    for (int i = 0; i < 4; ++i) {
      const float* got = of_set->rows[l].f32() + members[i] * width;
      const float* want = alone->rows[l].f32() + i * width;
      EXPECT_EQ(memcmp(got, want, width * sizeof(float)), 0);
      EXPECT_NE(memcmp(got, of_all->rows[l].f32() + members[i] * width,
                       width * sizeof(float)),
                0);
      double square = 0;
      for (int64_t c = 0; c < width; ++c) square += double{got[c]} * got[c];
      EXPECT_NEAR(square, 1, 1e-5);
    }
    // What an export writes: the rows of all.
    EXPECT_EQ(memcmp(whole->decoder->weights().layers[l].router.data,
                     of_all->rows[l].data, of_all->rows[l].bytes()),
              0);
  }
}

// Sets mixed in one batch, each routed by its own rows.
TEST_F(CompositionTest, SolvedRowsInAMixedBatch) {
  for (const char* router : {"dume", "pooled"}) {
    SCOPED_TRACE(router);
    const auto whole = f().Load(f().Lock(router));
    const std::vector<int32_t> ids = f().Ids(30), other = f().Ids(20, 8);
    math::Arena arena;
    math::Exec exec(math::Cpu(), arena, math::Product::kExact);
    const model::SequenceInput inputs[] = {{other, nullptr, 0b11111},
                                           {ids, nullptr, 0b01011},
                                           {other, nullptr, 0b01011},
                                           {other, nullptr, 0b00001}};
    const model::Batch batch(inputs);
    const math::Tensor logits = whole->decoder->Logits(
        exec, whole->decoder->Forward(exec, batch).RowSlice(20, 30));
    const std::vector<float> want = LogitsOf(*whole->decoder, ids, 0b01011);
    EXPECT_EQ(memcmp(logits.data, want.data(), logits.bytes()), 0);
  }
}

// The fixture is of use only when the router's every way is taken.
TEST_F(CompositionTest, AnchoredTakesEveryExpertAndTheGateRefusesSome) {
  const auto composition = f().Load(f().Lock());
  std::vector<int> chosen(5), open(5);
  const auto count = [&](const Composition& c, std::vector<int>& counts) {
    math::Arena arena;
    math::Exec exec(math::Cpu(), arena, math::Product::kExact);
    const std::vector<int32_t> ids = f().Ids(200);
    const model::SequenceInput inputs[] = {{ids, nullptr, c.All()}};
    model::Trace trace;
    c.decoder->Forward(exec, model::Batch(inputs), &trace);
    for (const math::Routing& routing : trace.routing) {
      for (int64_t m = 0; m < routing.idx.rows(); ++m) {
        const int32_t second = routing.idx.i32()[2 * m + 1];
        ++counts[std::max(second, 0)];
      }
    }
  };
  count(*composition, chosen);
  v1::CompositionLock lock = f().Lock();
  lock.mutable_router()->set_gate(false);
  count(*f().Load(lock), open);
  for (int e = 1; e < 5; ++e) {
    EXPECT_GT(chosen[e], 0) << e;
  }
  EXPECT_GT(chosen[0], open[0]);
}

// w_e = P mu_e, c_e = -1/2 mu_e w_e, by another way of summing.
TEST_F(CompositionTest, SelectionIsTheDiscriminant) {
  const auto composition = f().Load(f().Lock());
  const math::AnchoredLayer& layer = composition->decoder->router().anchored[1];
  const auto& statistics =
      f().experts()[2].manifest.domain().anchored().layers(1);
  const int64_t width = f().config().width;
  double c = 0;
  for (int64_t i = width - 1; i >= 0; --i) {
    double w = 0;
    for (int64_t j = width - 1; j >= 0; --j) {
      w += double{layer.precision.f32()[i * width + j]} *
           statistics.base_mean(static_cast<int>(j));
    }
    EXPECT_NEAR(layer.select.f32()[3 * width + i], w, 1e-5);
    c -= 0.5 * w * statistics.base_mean(static_cast<int>(i));
  }
  EXPECT_NEAR(layer.offset.f32()[3], c, 1e-5);
  EXPECT_EQ(layer.threshold.f32()[3], statistics.threshold());
  EXPECT_TRUE(std::isinf(layer.threshold.f32()[0]));
  EXPECT_FLOAT_EQ(layer.smoothing, 0.8f);
}

// Noise that its owner stated lifts c_e by what it takes off on the average.
// What noise adds to mu'P mu is taken off, down to none at all: whatever noise
// an owner states, no expert starts with a head start.
TEST_F(CompositionTest, TheSelectionAllowsForNoise) {
  const auto without = f().Load(f().Lock());
  const auto width = static_cast<float>(f().config().width);
  for (const float noise : {0.1f, 0.5f}) {
    TinyOptions options;
    options.mean_noise = noise;
    const TinyFederation noisy(options);
    const auto with = noisy.Load(noisy.Lock());
    for (int64_t l = 0; l < f().config().layers; ++l) {
      const auto& a = with->decoder->router().anchored[l];
      const auto& b = without->decoder->router().anchored[l];
      EXPECT_EQ(a.offset.f32()[0], b.offset.f32()[0]);
      for (int e = 1; e < 5; ++e) {
        const float want =
            b.offset.f32()[e] + 0.5f * noise * noise * width;
        EXPECT_EQ(want < 0, noise < 0.3f);
        EXPECT_NEAR(a.offset.f32()[e], std::min(0.0f, want), 1e-4);
      }
    }
  }
}

TEST_F(CompositionTest, AddingAnExpertTouchesNobody) {
  LoadOptions only;
  only.all = false;
  only.only = {1, 3};
  const auto two = f().Load(f().Lock(), only);
  const auto four = f().Load(f().Lock());
  const size_t row = f().config().width * sizeof(float);
  const auto same = [&](const math::Tensor& a, int ea, const math::Tensor& b,
                        int eb) {
    const int64_t width = a.cols();
    return memcmp(a.f32() + ea * width, b.f32() + eb * width, row) == 0;
  };
  for (int64_t l = 0; l < f().config().layers; ++l) {
    const auto& a = two->decoder->router().anchored[l];
    const auto& b = four->decoder->router().anchored[l];
    for (const auto& [ea, eb] : {std::pair{0, 0}, {1, 1}, {2, 3}}) {
      EXPECT_TRUE(same(a.rows, ea, b.rows, eb));
      EXPECT_TRUE(same(a.select, ea, b.select, eb));
      EXPECT_TRUE(same(a.pair_mean, ea, b.pair_mean, eb));
      EXPECT_EQ(a.offset.f32()[ea], b.offset.f32()[eb]);
    }
  }
}

TEST_F(CompositionTest, WeightsAreReferencedNotCopied) {
  const auto composition = f().Load(f().Lock());
  const auto& layer = composition->decoder->weights().layers[0];
  EXPECT_EQ(layer.experts[1].gate.data,
            composition->files[0]->Find("layers.0.mlp.gate_proj.weight").data);
  EXPECT_EQ(layer.experts[0].gate.data,
            composition->base->weights.layers[0].experts[0].gate.data);
}

TEST_F(CompositionTest, ResolvesEveryKindOfName) {
  const auto c = f().Load(f().Lock());
  EXPECT_EQ(*c->Resolve({"code"}), 2u);
  EXPECT_EQ(*c->Resolve({"legal.example"}), 4u);
  EXPECT_EQ(*c->Resolve({"manual.example/manual"}), 8u);
  EXPECT_EQ(*c->Resolve({"health.example/health@1.0.0", "code"}), 18u);
  EXPECT_EQ(*c->Resolve({}), 0u);
  EXPECT_EQ(*c->Resolve({"base"}), 0u);
  EXPECT_EQ(c->All(), 31u);
  EXPECT_THAT(c->Names(5), ElementsAre("choir/base@1.0.0",
                                       "legal.example/legal@1.0.0"));
  const auto unknown = c->Resolve({"code", "maths"});
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(unknown.status().message()),
              HasSubstr("\"maths\""));
  EXPECT_THAT(std::string(unknown.status().message()),
              HasSubstr("code.example/code@1.0.0 (domain code)"));
}

TEST_F(CompositionTest, OtherRouterFromTheSamePackages) {
  LoadOptions options;
  options.router = "topk";
  const auto ids = f().Ids(30);
  EXPECT_EQ(
      measure::LogitsSha256(*f().Load(f().Lock(), options)->decoder, ids, 31,
                            0),
      measure::LogitsSha256(*f().Load(f().Lock("topk"))->decoder, ids, 31, 0));
  options.router = "best";
  EXPECT_FALSE(LoadComposition(f().Lock(), f().FolderOf(), options).ok());
}

TEST_F(CompositionTest, BadPositionsAreRefused) {
  LoadOptions options;
  options.all = false;
  for (const std::vector<int>& only :
       {std::vector<int>{0}, {5}, {2, 2}, {-1}}) {
    options.only = only;
    EXPECT_FALSE(LoadComposition(f().Lock(), f().FolderOf(), options).ok());
  }
}

TEST(CompositionFilesTest, OneChangedByteIsRefused) {
  TinyOptions options;
  options.experts = 1;
  const TinyFederation federation(options);
  const v1::CompositionLock lock = federation.Lock("dume");
  for (const std::string& path :
       {federation.experts()[0].folder + "/weights.safetensors",
        federation.experts()[0].folder + "/statistics.safetensors",
        federation.experts()[0].folder + "/manifest.json",
        federation.base().folder + "/anchor.safetensors",
        federation.base().folder + "/weights.safetensors",
        federation.base().folder + "/tokenizer.json"}) {
    const std::string good = *proto::ReadFile(path, 1 << 24);
    std::string bad = good;
    bad[bad.size() / 2] ^= 1;
    ASSERT_TRUE(proto::WriteFileAtomic(path, bad).ok());
    const auto loaded = LoadComposition(lock, federation.FolderOf());
    ASSERT_FALSE(loaded.ok()) << path;
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(loaded.status().message()), HasSubstr(path));
    ASSERT_TRUE(proto::WriteFileAtomic(path, good).ok());
  }
  EXPECT_TRUE(LoadComposition(lock, federation.FolderOf()).ok());
}

// A signed file can still hold numbers that no row can be solved from.
TEST(SolvedRowsFiles, NameTheTensorThatDoesNotFit) {
  const TinyFederation federation;
  const auto anchor = *package::SafetensorsFile::Open(
      federation.base().folder + "/anchor.safetensors");
  const auto made = [&](std::vector<double> products, int64_t sums) {
    std::vector<double> sum(sums, 1.0);
    std::vector<package::NamedTensor> tensors;
    for (const char* layer : {"layers.0", "layers.1"}) {
      for (auto* numbers : {&products, &sum}) {
        math::Tensor t;
        t.data = numbers->data();
        t.dtype = math::DType::kF64;
        t.shape = {static_cast<int64_t>(numbers->size())};
        tensors.push_back({absl::StrCat(layer, numbers == &sum ? ".sum"
                                                               : ".products"),
                           t});
      }
    }
    const std::string path = federation.Path("odd.safetensors");
    EXPECT_TRUE(package::WriteSafetensors(path, tensors).ok());
    return std::string(
        MakeSolvedRows(Solved::kRows, federation.config(), *anchor, 1000,
                       {*package::SafetensorsFile::Open(path)}, {10}, 1e-2)
            .status()
            .message());
  };
  std::vector<double> products(16 * 17 / 2, 1.0);
  EXPECT_EQ(made(products, 16), "");
  EXPECT_THAT(made(products, 15), HasSubstr("layers.0.sum F64 [15]"));
  products[3] = NAN;
  EXPECT_THAT(made(products, 16),
              HasSubstr("layers.0.products with numbers that are not finite"));
}

}  // namespace
}  // namespace motet::assemble
