// SPDX-License-Identifier: Apache-2.0
// Method btx over real packages: plan and lock, what a composition is made
// of, and the identities of METHODS 2. That every subset equals its own
// composition is guarantee_test.cc's.
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/method.h"
#include "gmock/gmock.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::assemble {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

TinyOptions DenseOptions() {
  TinyOptions options;
  options.dense = true;
  options.block = model::Block::kPreNorm;
  return options;
}

Recipe RecipeFor(const std::vector<Part>& parts,
                 const std::string& kind = "topk") {
  Recipe recipe = TinyFederation::RecipeFor(parts, kind);
  recipe.method = "btx";
  return recipe;
}

v1::CompositionLock LockFor(const TinyFederation& f, const Recipe& recipe,
                            const std::vector<Part>& parts) {
  const Plan plan = MakePlan(recipe, f.base(), parts);
  EXPECT_THAT(plan.problems, IsEmpty());
  return plan.lock;
}

class BtxMethodTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    federation_ = new TinyFederation(DenseOptions());
  }
  static void TearDownTestSuite() { delete federation_; }
  static const TinyFederation& f() { return *federation_; }
  static TinyFederation* federation_;
};
TinyFederation* BtxMethodTest::federation_ = nullptr;

TEST_F(BtxMethodTest, FfnsStayWhereTheyLieAndTheTrunkIsTheMean) {
  const auto composed =
      f().Load(LockFor(f(), RecipeFor(f().experts()), f().experts()));
  ASSERT_NE(composed, nullptr);
  const model::ModelWeights& weights = composed->decoder->weights();
  ASSERT_EQ(weights.layers[0].experts.size(), 5u);
  // Expert 1 trained other tensors than expert 2; one of the two has this
  // one in its own file.
  int own = 0;
  for (size_t e = 0; e < 4; ++e) {
    const math::Tensor mapped =
        composed->files[e]->Find("model.layers.0.mlp.gate_proj.weight");
    if (mapped.empty()) continue;
    EXPECT_EQ(weights.layers[0].experts[e + 1].gate.data, mapped.data);
    ++own;
  }
  EXPECT_GT(own, 0);
  for (size_t t = 0; t < f().base_weights().size(); ++t) {
    const package::NamedTensor& base = f().base_weights()[t];
    if (base.name != "model.embed_tokens.weight") continue;
    for (int64_t i = 0; i < base.tensor.size(); ++i) {
      double sum = base.tensor.f32()[i];
      for (int e = 0; e < 4; ++e) sum += f().branch(e)[t].tensor.f32()[i];
      ASSERT_NEAR(weights.embed.f32()[i], sum / 5, 1e-6);
    }
  }
}

TEST_F(BtxMethodTest, RowsAreTheNormalisedMeans) {
  const auto composed =
      f().Load(LockFor(f(), RecipeFor(f().experts()), f().experts()));
  const math::Tensor& rows = composed->decoder->weights().layers[1].router;
  ASSERT_EQ(rows.rows(), 5);
  const auto& mean =
      f().experts()[2].manifest.domain().anchored().layers(1).base_mean();
  double square = 0;
  for (const float x : mean) square += double{x} * x;
  for (int c = 0; c < mean.size(); ++c) {
    EXPECT_NEAR(rows.f32()[3 * rows.cols() + c], mean[c] / std::sqrt(square),
                1e-6);
  }
}

// Whatever the router says: gates that sum to 1 over equal experts.
TEST_F(BtxMethodTest, IdenticalExpertsAreTheDenseModel) {
  for (const model::Block block :
       {model::Block::kPreNorm, model::Block::kPostNorm}) {
    TinyOptions options = DenseOptions();
    options.noise = 0;
    options.block = block;
    const TinyFederation same(options);
    for (const char* kind : {"topk", "shared", "topp", "soft"}) {
      for (const int chunks : {1, 2}) {
        Recipe recipe = RecipeFor(same.experts(), kind);
        recipe.btx.chunks = chunks;
        // In chunks, only all of them sum to an FFN.
        if (chunks > 1 && std::string(kind) != "soft") continue;
        const auto composed = same.Load(LockFor(same, recipe, same.experts()));
        ASSERT_NE(composed, nullptr);
        // The base's weights lie in files of their own.
        const auto reference =
            model::Decoder::Create(same.config(), composed->base->weights, {});
        ASSERT_TRUE(reference.ok()) << reference.status();
        const auto want = LogitsOf(*reference, same.Ids(30), 1);
        const auto got =
            LogitsOf(*composed->decoder, same.Ids(30), composed->All());
        ASSERT_EQ(got.size(), want.size());
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_NEAR(got[i], want[i], 2e-5) << kind << " " << chunks;
        }
      }
    }
  }
}

// One expert beside the base, each in two chunks that have the same row: the
// four chunks are chosen evenly within an expert, so they are the two whole.
TEST_F(BtxMethodTest, ChunksOfAllExpertsAreTheExperts) {
  const auto parts = f().Experts({0});
  Recipe whole = RecipeFor(parts, "soft"), cut = RecipeFor(parts, "soft");
  cut.btx.chunks = 2;
  const auto a = f().Load(LockFor(f(), whole, parts));
  const auto b = f().Load(LockFor(f(), cut, parts));
  ASSERT_TRUE(a != nullptr && b != nullptr);
  EXPECT_EQ(b->config.experts, 4);
  EXPECT_EQ(b->experts.size(), 2u);
  const auto want = LogitsOf(*a->decoder, f().Ids(30), a->All());
  const auto got = LogitsOf(*b->decoder, f().Ids(30), b->All());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 2e-5);
}

TEST_F(BtxMethodTest, PlanListsEverythingAtOnce) {
  const TinyFederation ffns;
  TinyOptions other = DenseOptions();
  other.seed = 11;
  other.means = false;
  const TinyFederation foreign(other);
  std::vector<Part> parts = {f().experts()[0], ffns.experts()[1],
                             foreign.experts()[2]};
  Recipe recipe = RecipeFor(parts);
  recipe.router.k = 20;
  recipe.btx.chunks = 3;
  const std::string problems =
      absl::StrJoin(MakePlan(recipe, f().base(), parts).problems, "\n");
  EXPECT_THAT(problems,
              AllOf(HasSubstr("btx.chunks = 3"), HasSubstr("router.k = 20"),
                    HasSubstr("got kind \"ffn\", want attention_ffn, dense, "
                              "sized for method btx"),
                    HasSubstr("want the base's"), HasSubstr("got no means")));
}

TEST_F(BtxMethodTest, RandomRowsNeedNoMeansAndSayThatTheyNeedTuning) {
  TinyOptions options = DenseOptions();
  options.means = false;
  const TinyFederation bare(options);
  Recipe recipe = RecipeFor(bare.experts());
  recipe.btx.rows = "random";
  recipe.btx.seed = 3;
  const Plan plan = MakePlan(recipe, bare.base(), bare.experts());
  EXPECT_THAT(plan.problems, IsEmpty());
  EXPECT_THAT(absl::StrJoin(plan.notes, "\n"), HasSubstr("must be tuned"));
  const auto a = bare.Load(plan.lock);
  recipe.btx.seed = 4;
  const auto b = bare.Load(MakePlan(recipe, bare.base(), bare.experts()).lock);
  ASSERT_TRUE(a != nullptr && b != nullptr);
  EXPECT_NE(LogitsOf(*a->decoder, bare.Ids(20), a->All()),
            LogitsOf(*b->decoder, bare.Ids(20), b->All()));
}

TEST_F(BtxMethodTest, LockComesBackAndIsChecked) {
  v1::CompositionLock lock =
      LockFor(f(), RecipeFor(f().experts(), "sample"), f().experts());
  const auto parsed = ParseLock(WriteLock(lock), "demo");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(WriteLock(*parsed), WriteLock(lock));
  lock.mutable_btx()->set_chunks(5);
  lock.mutable_router()->set_temperature(0);
  lock.mutable_router()->set_rows("trained");
  EXPECT_THAT(
      ParseLock(WriteLock(lock), "demo").status().message(),
      AllOf(HasSubstr("btx.chunks = 5"), HasSubstr("router.temperature = 0"),
            HasSubstr("router.rows = \"trained\"")));
}

TEST_F(BtxMethodTest, SetsAreMadeWithinTheirMemory) {
  const v1::CompositionLock lock =
      LockFor(f(), RecipeFor(f().experts()), f().experts());
  LoadOptions small;
  small.set_bytes = 1000;
  const auto composed = f().Load(lock, small);
  const auto refused = composed->DecoderFor(1 | 2);
  EXPECT_THAT(refused.status().message(),
              AllOf(HasSubstr("legal.example/legal@1.0.0"),
                    HasSubstr("--merge-memory")));
  // The base alone is where it lies.
  EXPECT_TRUE(composed->DecoderFor(1).ok());
  const auto roomy = f().Load(lock);
  EXPECT_EQ(roomy->DecoderFor(3)->get(), roomy->DecoderFor(3)->get());
}

TEST(BtxRecipeTest, OptionsAndTheirErrors) {
  const auto recipe = ParseRecipe(
      "name = \"x\"\nmethod = \"btx\"\nexperts = [\"a.example/a\"]\n"
      "[btx]\nrows = \"random\"\nchunks = 2\nseed = 7\n",
      "r.toml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->router.kind, "topk");
  EXPECT_EQ(recipe->router.k, 4);
  EXPECT_EQ(recipe->btx.seed, 7u);
  const auto bad = ParseRecipe(
      "name = \"x\"\nmethod = \"btx\"\nexperts = [\"a.example/a\"]\n"
      "[router]\nkind = \"anchored\"\ngate = true\nridge = 0.1\n"
      "[btx]\nrows = \"solved\"\nchunks = 3\n",
      "r.toml");
  EXPECT_THAT(bad.status().message(),
              AllOf(HasSubstr("btx.rows"), HasSubstr("btx.chunks"),
                    HasSubstr("router.kind"), HasSubstr("router.ridge")));
  const auto foreign = ParseRecipe(
      "name = \"x\"\nexperts = [\"a.example/a\"]\n"
      "[router]\nkind = \"soft\"\n[btx]\nchunks = 2\n",
      "r.toml");
  EXPECT_THAT(foreign.status().message(),
              AllOf(HasSubstr("section [btx]"), HasSubstr("router.kind")));
}

}  // namespace
}  // namespace motet::assemble
