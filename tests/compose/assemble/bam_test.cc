// SPDX-License-Identifier: Apache-2.0
// Method bam over real packages: plan and lock, what a composition is made
// of, the identity of METHODS 3, the guarantee for every subset, the cache of
// an expert set, and that no other layout holds it.
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/export.h"
#include "compose/assemble/method.h"
#include "compose/measure/exclusion.h"
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
  options.kind = "attention_ffn";
  options.block = model::Block::kPreNorm;
  return options;
}

Recipe RecipeFor(const std::vector<Part>& parts, const std::string& kv) {
  Recipe recipe = TinyFederation::RecipeFor(parts, "topk");
  recipe.method = "bam";
  recipe.router.k = 1;
  recipe.bam.kv = kv;
  return recipe;
}

class BamMethodTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    federation_ = new TinyFederation(DenseOptions());
  }
  static void TearDownTestSuite() { delete federation_; }
  static const TinyFederation& f() { return *federation_; }
  static std::unique_ptr<Composition> Compose(const TinyFederation& f,
                                              const Recipe& recipe) {
    const Plan plan = MakePlan(recipe, f.base(), f.experts());
    EXPECT_THAT(plan.problems, IsEmpty());
    return f.Load(plan.lock);
  }
  static TinyFederation* federation_;
};
TinyFederation* BamMethodTest::federation_ = nullptr;

// The mean over the base and all branches of one tensor.
std::vector<float> MeanOf(const TinyFederation& f, const std::string& name) {
  for (size_t t = 0; t < f.base_weights().size(); ++t) {
    const package::NamedTensor& base = f.base_weights()[t];
    if (base.name != name) continue;
    std::vector<float> mean;
    for (int64_t i = 0; i < base.tensor.size(); ++i) {
      double sum = base.tensor.f32()[i];
      for (int e = 0; e < 4; ++e) sum += f.branch(e)[t].tensor.f32()[i];
      mean.push_back(static_cast<float>(sum / 5));
    }
    return mean;
  }
  ADD_FAILURE() << "no " << name;
  return {};
}

void ExpectNear(const math::Tensor& got, const std::vector<float>& want) {
  ASSERT_EQ(static_cast<size_t>(got.size()), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(got.f32()[i], want[i], 1e-6);
  }
}

TEST_F(BamMethodTest, OwnKvKeepsEachAttentionWhereItLies) {
  const auto composed = Compose(f(), RecipeFor(f().experts(), "experts"));
  ASSERT_NE(composed, nullptr);
  EXPECT_EQ(composed->config.attention_experts,
            model::AttentionExperts::kOwnKv);
  const model::LayerWeights& layer = composed->decoder->weights().layers[0];
  ASSERT_EQ(layer.attention_experts.size(), 5u);
  EXPECT_TRUE(layer.k.empty());
  // A branch has in its own file what it trained, else it is the base's.
  int own = 0;
  for (size_t e = 0; e < 4; ++e) {
    for (const auto& [name, tensor] :
         {std::pair("q_proj", layer.attention_experts[e + 1].q),
          std::pair("k_proj", layer.attention_experts[e + 1].k)}) {
      const math::Tensor mapped = composed->files[e]->Find(
          absl::StrCat("model.layers.0.self_attn.", name, ".weight"));
      if (mapped.empty()) continue;
      EXPECT_EQ(tensor.data, mapped.data);
      ++own;
    }
  }
  EXPECT_GT(own, 0);
  ExpectNear(layer.attention_norm,
             MeanOf(f(), "model.layers.0.input_layernorm.weight"));
  ExpectNear(composed->decoder->weights().embed,
             MeanOf(f(), "model.embed_tokens.weight"));
}

TEST_F(BamMethodTest, SharedKvAveragesKeysAndValuesAlone) {
  const auto composed = Compose(f(), RecipeFor(f().experts(), "shared"));
  ASSERT_NE(composed, nullptr);
  const model::LayerWeights& layer = composed->decoder->weights().layers[1];
  EXPECT_TRUE(layer.q.empty());
  EXPECT_TRUE(layer.attention_experts[2].k.empty());
  EXPECT_FALSE(layer.attention_experts[2].q.empty());
  ExpectNear(layer.k, MeanOf(f(), "model.layers.1.self_attn.k_proj.weight"));
  ExpectNear(layer.v, MeanOf(f(), "model.layers.1.self_attn.v_proj.weight"));
}

// Untuned, the attention router gives every expert of the set the same.
TEST_F(BamMethodTest, MeansBeginAsEqualsInAttention) {
  const auto composed = Compose(f(), RecipeFor(f().experts(), "experts"));
  ASSERT_NE(composed, nullptr);
  const std::vector<int32_t> ids = f().Ids(9);
  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, math::Product::kExact);
  const model::SequenceInput input = {ids, nullptr, 0b01101};
  model::Trace trace;
  composed->decoder->Forward(exec, model::Batch({&input, 1}), &trace);
  for (int64_t i = 0; i < trace.attention[0].w.size(); ++i) {
    EXPECT_EQ(trace.attention[0].w.f32()[i], i % 5 < 3 ? 1.0f / 3 : 0.0f);
  }
}

// Whatever the routers say: soft gates sum to 1, and so do renormalised ones.
TEST_F(BamMethodTest, IdenticalExpertsAreTheDenseModel) {
  for (const model::Block block :
       {model::Block::kPreNorm, model::Block::kPostNorm}) {
    TinyOptions options = DenseOptions();
    options.noise = 0;
    options.block = block;
    const TinyFederation same(options);
    for (const char* kv : {"experts", "shared"}) {
      for (const char* rows : {"means", "random"}) {
        Recipe recipe = RecipeFor(same.experts(), kv);
        recipe.router.renormalise = true;
        recipe.router.shared = std::string(rows) == "random";
        recipe.bam.rows = rows;
        const auto composed = Compose(same, recipe);
        ASSERT_NE(composed, nullptr);
        const auto reference = model::Decoder::Create(
            same.config(), composed->base->weights, {});
        ASSERT_TRUE(reference.ok()) << reference.status();
        const auto want = LogitsOf(*reference, same.Ids(30), 1);
        const auto got =
            LogitsOf(*composed->decoder, same.Ids(30), composed->All());
        ASSERT_EQ(got.size(), want.size());
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_NEAR(got[i], want[i], 2e-5) << kv << " " << rows;
        }
      }
    }
  }
}

// A query for a subset gives, bit for bit, the logits of the subset composed
// alone by its own recipe, whose lock is the one that the composition names.
TEST_F(BamMethodTest, EverySubsetIsItsOwnComposition) {
  const auto recipe_for = [](const std::vector<Part>& parts, int variant) {
    Recipe recipe = RecipeFor(parts, variant == 1 ? "shared" : "experts");
    if (variant == 2) {
      recipe.router.kind = "topp";
      recipe.bam.rows = "random";
      recipe.bam.seed = 5;
    }
    return recipe;
  };
  const auto logits = [](const model::Decoder& decoder, math::ExpertMask set,
                         int64_t chunk) {
    return measure::LogitsSha256(decoder, f().Ids(30), set, chunk);
  };
  for (int variant = 0; variant < 3; ++variant) {
    const auto whole = Compose(f(), recipe_for(f().experts(), variant));
    ASSERT_NE(whole, nullptr);
    ASSERT_TRUE(whole->exact_exclusion);
    std::set<std::string> different;
    for (math::ExpertMask set = 1; set < 32; set += 2) {
      SCOPED_TRACE(absl::StrCat(variant, " set ", static_cast<int>(set)));
      LoadOptions only;
      only.all = false;
      std::vector<int> which;
      for (int e = 1; e <= 4; ++e) {
        if ((set >> e & 1) == 0) continue;
        only.only.push_back(e);
        which.push_back(e - 1);
      }
      const auto alone = f().Load(whole->lock, only);
      ASSERT_NE(alone, nullptr);
      if (!which.empty()) {
        const auto parts = f().Experts(which);
        const Plan own =
            MakePlan(recipe_for(parts, variant), f().base(), parts);
        EXPECT_THAT(own.problems, IsEmpty());
        EXPECT_EQ(WriteLock(alone->lock), WriteLock(own.lock));
      }
      const auto decoder = whole->DecoderFor(set);
      ASSERT_TRUE(decoder.ok()) << decoder.status();
      const std::string got = logits(**decoder, set, 0);
      EXPECT_EQ(got, logits(*alone->decoder, alone->All(), 0));
      EXPECT_EQ(got, logits(**decoder, set, 7)) << "in pieces";
      different.insert(got);
    }
    EXPECT_EQ(different.size(), 16u);  // else the comparisons were empty
  }
}

TEST_F(BamMethodTest, TheCacheOfASetHoldsItsExpertsAlone) {
  const auto own = Compose(f(), RecipeFor(f().experts(), "experts"));
  const auto shared = Compose(f(), RecipeFor(f().experts(), "shared"));
  ASSERT_TRUE(own != nullptr && shared != nullptr);
  const model::ModelConfig& c = own->config;
  const int64_t one = c.layers * 2 * 100 * c.kv_heads * c.head_dim *
                      static_cast<int64_t>(sizeof(float));
  const auto bytes = [](const Composition& of, math::ExpertMask set) {
    return model::SequenceCache::Bytes(of.config, 100, set | of.Always());
  };
  const int64_t base_alone = bytes(*own, 0);
  EXPECT_EQ(bytes(*own, 0b00110), base_alone + 2 * one);
  EXPECT_EQ(bytes(*own, own->All()), base_alone + 4 * one);
  EXPECT_EQ(bytes(*shared, shared->All()), base_alone);
  EXPECT_EQ(bytes(*shared, 0), base_alone);
}

TEST_F(BamMethodTest, NoLayoutOfTransformersHoldsIt) {
  const auto composed = Compose(f(), RecipeFor(f().experts(), "shared"));
  ASSERT_NE(composed, nullptr);
  const std::string folder = f().Path("exported");
  const auto report = ExportHuggingFace(*composed, folder);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(report.status().message(), HasSubstr("attention experts"));
  EXPECT_FALSE(std::filesystem::exists(folder));
}

TEST_F(BamMethodTest, PlanListsEverythingAtOnce) {
  const TinyFederation ffns;
  TinyOptions other = DenseOptions();
  other.seed = 11;
  other.means = false;
  other.kind = "dense";
  const TinyFederation foreign(other);
  const std::vector<Part> parts = {f().experts()[0], ffns.experts()[1],
                                   foreign.experts()[2]};
  Recipe recipe = RecipeFor(parts, "half");
  recipe.router.kind = "anchored";
  const std::string problems =
      absl::StrJoin(MakePlan(recipe, f().base(), parts).problems, "\n");
  EXPECT_THAT(problems,
              AllOf(HasSubstr("bam.kv = \"half\""),
                    HasSubstr("router.kind = \"anchored\""),
                    HasSubstr("got kind \"ffn\", want \"attention_ffn\""),
                    HasSubstr("[manual.example/manual@1.0.0] got kind "
                              "\"dense\", want \"attention_ffn\"")));
  // One that offers its attention, of another base and without means.
  other.kind = "attention_ffn";
  const TinyFederation marked(other);
  const std::vector<Part> strange = {marked.experts()[0]};
  EXPECT_THAT(
      absl::StrJoin(
          MakePlan(RecipeFor(strange, "shared"), f().base(), strange).problems,
          "\n"),
      AllOf(HasSubstr("want the base's"), HasSubstr("got no means")));
}

TEST_F(BamMethodTest, ThePlanCountsWhatTheCompositionHolds) {
  for (const char* kv : {"experts", "shared"}) {
    const Plan plan =
        MakePlan(RecipeFor(f().experts(), kv), f().base(), f().experts());
    const auto composed = f().Load(plan.lock);
    ASSERT_NE(composed, nullptr);
    EXPECT_EQ(plan.parameters, model::CountParameters(composed->config));
    const model::ModelConfig& c = composed->config;
    EXPECT_EQ(plan.active_parameters,
              plan.parameters - 4 * 3 * c.layers * c.width * c.ffn_width);
    EXPECT_THAT(absl::StrJoin(plan.notes, "\n"),
                HasSubstr(std::string(kv) == "shared" ? "KV cache: one,"
                                                      : "5 for all"));
  }
}

TEST_F(BamMethodTest, LockComesBackAndIsChecked) {
  const Recipe recipe = RecipeFor(f().experts(), "shared");
  v1::CompositionLock lock =
      MakePlan(recipe, f().base(), f().experts()).lock;
  EXPECT_EQ(lock.exclusion(), "exact");
  EXPECT_FALSE(lock.router().renormalise());
  const auto parsed = ParseLock(WriteLock(lock), "demo");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(WriteLock(*parsed), WriteLock(lock));
  lock.mutable_bam()->set_kv("none");
  lock.mutable_router()->set_rows("trained");
  lock.mutable_router()->set_kind("anchored");
  EXPECT_THAT(ParseLock(WriteLock(lock), "demo").status().message(),
              AllOf(HasSubstr("bam.kv = \"none\""),
                    HasSubstr("router.rows = \"trained\""),
                    HasSubstr("router.kind = \"anchored\"")));
}

TEST(BamRecipeTest, OptionsAndTheirErrors) {
  const auto recipe = ParseRecipe(
      "name = \"x\"\nmethod = \"bam\"\nexperts = [\"a.example/a\"]\n"
      "[bam]\nkv = \"shared\"\nrows = \"random\"\nseed = 7\n",
      "r.toml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->router.kind, "topk");
  EXPECT_EQ(recipe->router.k, 1);
  EXPECT_EQ(recipe->bam.kv, "shared");
  EXPECT_EQ(recipe->bam.seed, 7u);
  const auto bad = ParseRecipe(
      "name = \"x\"\nmethod = \"bam\"\nexperts = [\"a.example/a\"]\n"
      "[router]\nkind = \"anchored\"\n[bam]\nkv = \"none\"\nchunks = 2\n"
      "[merge]\nkind = \"ties\"\n",
      "r.toml");
  EXPECT_THAT(bad.status().message(),
              AllOf(HasSubstr("bam.kv"), HasSubstr("bam.chunks"),
                    HasSubstr("router.kind"), HasSubstr("section [merge]")));
}

}  // namespace
}  // namespace motet::assemble
