// SPDX-License-Identifier: Apache-2.0
// A plan lists everything that does not fit, and says what a composition
// comes to.
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::assemble {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class PlanTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { federation_ = new TinyFederation; }
  static void TearDownTestSuite() { delete federation_; }
  const TinyFederation& f() { return *federation_; }
  static TinyFederation* federation_;
};
TinyFederation* PlanTest::federation_ = nullptr;

TEST_F(PlanTest, GoodRecipe) {
  const Plan plan =
      MakePlan(f().RecipeFor(f().experts()), f().base(), f().experts());
  EXPECT_THAT(plan.problems, IsEmpty());
  EXPECT_EQ(plan.lock.exclusion(), "exact");
  EXPECT_EQ(plan.lock.router().kind(), "anchored");
  EXPECT_EQ(plan.lock.router().rows(), "trained");
  EXPECT_FALSE(plan.lock.router().renormalise());
  ASSERT_EQ(plan.lock.experts_size(), 4);
  EXPECT_EQ(plan.lock.experts(1).log_index(), 2u);
  EXPECT_EQ(plan.lock.base().manifest_sha256(), f().base().manifest_sha256);
  EXPECT_THAT(plan.notes, Contains(HasSubstr("exclusion: exact")));
  EXPECT_THAT(plan.notes,
              Contains("legal.example/legal@1.0.0 may not serve purpose "
                       "advertising: the gate will exclude it there"));
}

TEST(AlonePlanTest, RowsAndMixingMustFitHowExpertsWereTrained) {
  TinyOptions options;
  options.alone = 2;
  const TinyFederation f(options);
  const auto plan = [&](const std::string& router, std::vector<int> which) {
    const std::vector<Part> parts = f.Experts(which);
    return MakePlan(f.RecipeFor(parts, router), f.base(), parts);
  };
  const Plan pair = plan("anchored", {0, 1, 2, 3});
  ASSERT_EQ(pair.problems.size(), 2u);  // both at once
  EXPECT_THAT(pair.problems[0], HasSubstr("code.example/code@1.0.0"));
  EXPECT_THAT(pair.problems[1], HasSubstr("set router.mixing = \"switch\""));
  EXPECT_THAT(plan("topk", {0, 1, 2}).problems,
              Contains(HasSubstr("want rows of one source")));
  EXPECT_THAT(plan("dume", {0, 1, 2}).problems, IsEmpty());

  const Plan both = plan("switch", {0, 1});
  EXPECT_THAT(both.problems, IsEmpty());
  EXPECT_EQ(both.lock.router().rows(), "domain_mean");
  EXPECT_THAT(both.notes, Not(Contains(HasSubstr("trained beside it"))));
  const Plan mixed = plan("switch", {0, 2});
  EXPECT_THAT(mixed.problems, IsEmpty());
  EXPECT_EQ(mixed.lock.router().rows(), "mixed");
  EXPECT_THAT(mixed.notes,
              Contains(HasSubstr("some of these were trained beside it")));
  LoadOptions options_topk;
  options_topk.router = "topk";
  EXPECT_FALSE(
      LoadComposition(mixed.lock, f.FolderOf(), options_topk).ok());
}

TEST_F(PlanTest, RouterOptionsGoIntoTheLock) {
  Recipe recipe = f().RecipeFor(f().experts(), "nulls");
  recipe.router.most_active = 4;
  const Plan nulls = MakePlan(recipe, f().base(), f().experts());
  EXPECT_THAT(nulls.problems, IsEmpty());
  EXPECT_EQ(nulls.lock.router().null_experts(), 2u);
  EXPECT_EQ(nulls.lock.router().most_active(), 4u);
  EXPECT_TRUE(nulls.lock.router().renormalise());
  const auto back = ParseLock(WriteLock(nulls.lock), "motet.lock");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(WriteLock(*back), WriteLock(nulls.lock));

  recipe = f().RecipeFor(f().experts(), "shared");
  const Plan shared = MakePlan(recipe, f().base(), f().experts());
  EXPECT_THAT(shared.problems, IsEmpty());
  EXPECT_TRUE(shared.lock.router().shared());
  const auto read = ParseLock(WriteLock(shared.lock), "motet.lock");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(WriteLock(*read), WriteLock(shared.lock));
  // The base's FFN, of width 24, and the widest other.
  EXPECT_EQ(shared.active_parameters - 2 * 4 * 16,
            model::CountParameters(f().config()) + 2 * 3 * 16 * 40);
  recipe.router.k = 5;
  recipe.router.most_active = 6;
  EXPECT_THAT(MakePlan(recipe, f().base(), f().experts()).problems,
              AllOf(Contains(HasSubstr("router.k = 5, want at most 4, the "
                                       "experts beside the base")),
                    Contains(HasSubstr("router.most_active = 6, want at most "
                                       "4"))));
  for (const auto& [kind, why] :
       {std::pair{"anchored", "an anchored pair has the base already"},
        std::pair{"topp", "takes what its weights say"}}) {
    recipe = f().RecipeFor(f().experts(), kind);
    recipe.router.shared = true;
    EXPECT_THAT(MakePlan(recipe, f().base(), f().experts()).problems,
                testing::ElementsAre(AllOf(HasSubstr("got router.shared"),
                                           HasSubstr(why))));
  }
  v1::CompositionLock odd = shared.lock;
  odd.mutable_router()->set_kind("topp");
  odd.mutable_router()->set_top_p(0.4);
  EXPECT_THAT(std::string(
                  ParseLock(WriteLock(odd), "motet.lock").status().message()),
              HasSubstr("router.shared with router.kind = \"topp\""));

  recipe = f().RecipeFor(f().experts(), "topp");
  recipe.router.most_active = 9;
  const Plan top_p = MakePlan(recipe, f().base(), f().experts());
  EXPECT_EQ(top_p.lock.router().top_p(), 0.4);
  EXPECT_THAT(top_p.problems,
              Contains(HasSubstr("router.most_active = 9, want at most 5")));
  EXPECT_EQ(top_p.active_parameters, top_p.parameters);

  recipe = f().RecipeFor(f().experts(), "switch");
  const Plan moved = MakePlan(recipe, f().base(), f().experts());
  EXPECT_EQ(moved.lock.router().mixing(), "switch");
  EXPECT_THAT(moved.notes, Contains(HasSubstr("mixing = \"switch\"")));

}

TEST_F(PlanTest, GatesThatOwnersPublished) {
  Recipe recipe = f().RecipeFor(f().experts(), "prefix");
  EXPECT_THAT(MakePlan(recipe, f().base(), f().experts()).problems, IsEmpty());
  recipe.router.quantile = 0.9;  // published, but not of the prefix's mean
  EXPECT_THAT(
      MakePlan(recipe, f().base(), f().experts()).problems,
      Contains(HasSubstr("router.smoothing \"prefix\" at quantile 0.9, want "
                         "0.8 at 0.97, 0.8 at 0.9, \"prefix\" at 0.97")));
  recipe.router.gate = false;
  EXPECT_THAT(MakePlan(recipe, f().base(), f().experts()).problems, IsEmpty());

  recipe = f().RecipeFor(f().experts());
  recipe.router.quantile = 0.9;
  const Plan plan = MakePlan(recipe, f().base(), f().experts());
  EXPECT_THAT(plan.problems, IsEmpty());
  EXPECT_EQ(plan.lock.router().gate_quantile(), 0.9);
  EXPECT_EQ(f().Load(plan.lock)->decoder->router().anchored[1].threshold
                .f32()[2],
            6.0f);
  EXPECT_EQ(f().Load(f().Lock())->decoder->router().anchored[1].threshold
                .f32()[2],
            10.0f);
}

// Thresholds belong to one metric, a rank among them.
TEST_F(PlanTest, TheGatesRank) {
  Recipe recipe = f().RecipeFor(f().experts(), "rank");
  const Plan plan = MakePlan(recipe, f().base(), f().experts());
  EXPECT_THAT(plan.problems, IsEmpty());
  EXPECT_EQ(plan.lock.router().gate_rank(), 4u);
  const auto back = ParseLock(WriteLock(plan.lock), "motet.lock");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(WriteLock(*back), WriteLock(plan.lock));
  const auto composition = f().Load(plan.lock);
  const math::AnchoredLayer& layer =
      composition->decoder->router().anchored[1];
  EXPECT_EQ(layer.factor.rows(), 4);
  EXPECT_EQ(layer.threshold.f32()[2], 3.0f);
  EXPECT_TRUE(f().Load(f().Lock())->decoder->router().anchored[1]
                  .factor.empty());

  recipe.router.gate_rank = 5;
  EXPECT_THAT(
      MakePlan(recipe, f().base(), f().experts()).problems,
      Contains(HasSubstr("router.smoothing 0.8 with a gate of rank 5, want 0.8 "
                         "at 0.97, 0.8 at 0.9, \"prefix\" at 0.97; of rank 4: "
                         "0.8 at 0.97")));
  v1::CompositionLock lock = plan.lock;
  lock.mutable_router()->set_gate_rank(5);
  const auto loaded = LoadComposition(lock, f().FolderOf(), {});
  ASSERT_FALSE(loaded.ok());
  EXPECT_THAT(std::string(loaded.status().message()), HasSubstr("rank 5"));
}

TEST_F(PlanTest, PooledCovarianceNeedsSecondMoments) {
  const Recipe recipe = f().RecipeFor(f().experts(), "pooled");
  const Plan plan = MakePlan(recipe, f().base(), f().experts());
  EXPECT_THAT(plan.problems, IsEmpty());
  EXPECT_EQ(plan.lock.exclusion(), "exact");
  EXPECT_EQ(plan.lock.router().covariance(), "pooled");
  EXPECT_EQ(plan.lock.router().anchor_tokens(), 1000u);
  EXPECT_THAT(plan.notes, Contains(HasSubstr("the gate keeps the public "
                                             "covariance")));
  EXPECT_THAT(plan.notes, Contains(HasSubstr("solved for each query's set")));
  EXPECT_GT(plan.referenced_bytes,
            MakePlan(f().RecipeFor(f().experts()), f().base(), f().experts())
                .referenced_bytes);

  Part base = f().base();
  base.manifest.mutable_domain()->clear_tokens();
  std::vector<Part> experts = f().experts();
  experts[2].manifest.mutable_domain()->clear_second_moments();
  const std::string all =
      absl::StrJoin(MakePlan(recipe, base, experts).problems, "\n");
  EXPECT_THAT(all, HasSubstr("for router.covariance \"pooled\"; train or "
                             "import the base again"));
  EXPECT_THAT(all, HasSubstr("[manual.example/manual@1.0.0] got no second "
                             "moments"));
  v1::CompositionLock lock = plan.lock;
  lock.mutable_router()->set_anchor_tokens(0);
  lock.mutable_router()->set_gate_rank(5000);
  const auto back = ParseLock(WriteLock(lock), "motet.lock");
  ASSERT_FALSE(back.ok());
  EXPECT_THAT(std::string(back.status().message()),
              AllOf(HasSubstr("router.anchor_tokens = 0"),
                    HasSubstr("router.gate_rank = 5000")));
}

TEST_F(PlanTest, NoiseIsTold) {
  std::vector<Part> experts = f().experts();
  experts[1].manifest.mutable_domain()->mutable_anchored()->set_noise(0.1);
  EXPECT_THAT(
      MakePlan(f().RecipeFor(experts), f().base(), experts).notes,
      Contains(HasSubstr("legal.example/legal@1.0.0 published its means with "
                         "noise of 0.1")));
}

TEST_F(PlanTest, DumeNeedsEveryonesStatistics) {
  const Recipe recipe = f().RecipeFor(f().experts(), "dume");
  const Plan good = MakePlan(recipe, f().base(), f().experts());
  EXPECT_THAT(good.problems, IsEmpty());
  EXPECT_EQ(good.lock.exclusion(), "exact");
  EXPECT_EQ(good.lock.router().ridge(), 1e-2);
  EXPECT_EQ(good.lock.router().anchor_tokens(), 1000u);

  Part base = f().base();
  base.manifest.mutable_domain()->clear_tokens();
  std::vector<Part> experts = f().experts();
  experts[2].manifest.mutable_domain()->clear_second_moments();
  experts[3].manifest.mutable_domain()->mutable_second_moments()
      ->set_min_documents(11);
  const std::string all =
      absl::StrJoin(MakePlan(recipe, base, experts).problems, "\n");
  for (const char* part :
       {"how many tokens its anchor", "[manual.example/manual@1.0.0] got no "
        "second moments", "of 10 documents", "floor of 11 documents"}) {
    EXPECT_THAT(all, HasSubstr(part));
  }
}

TEST_F(PlanTest, CountsWhatTheModelHas) {
  const Plan plan =
      MakePlan(f().RecipeFor(f().experts()), f().base(), f().experts());
  const int64_t layers = 2, width = 16;
  const int64_t base = model::CountParameters(f().config());
  const int64_t ffns = layers * 3 * width * (24 + 24 + 40 + 16);
  const int64_t rows = layers * 4 * width;
  EXPECT_EQ(plan.parameters, base + ffns + rows);
  // Anchored: the base's FFN and the widest other.
  EXPECT_EQ(plan.active_parameters, base + layers * 3 * width * 40 + rows);
  EXPECT_GT(plan.referenced_bytes, 4 * plan.parameters);
  EXPECT_EQ(plan.new_bytes,
            static_cast<int64_t>(WriteLock(plan.lock).size()));
}

TEST_F(PlanTest, AllProblemsAtOnce) {
  std::vector<Part> parts = f().Experts({0, 1, 2, 3, 0});
  parts[0].manifest.mutable_base()->set_manifest_sha256(std::string(64, 'a'));
  parts[0].manifest.mutable_base()->set_tokenizer_sha256(std::string(64, 'b'));
  parts[1].revoked = true;
  parts[1].manifest.mutable_domain()->clear_anchored();
  parts[2].manifest.set_frozen_sha256(std::string(64, 'c'));
  parts[2].manifest.mutable_model()->set_width(32);
  parts[2].manifest.mutable_model()->set_block("llama");
  parts[3].manifest.set_kind("dense");
  Recipe recipe = f().RecipeFor(parts);
  recipe.router.smoothing = 0.9;
  recipe.experts[2] = "other.example/other";
  const Plan plan = MakePlan(recipe, f().base(), parts);
  const std::string all = absl::StrJoin(plan.problems, "\n");
  for (const char* part :
       {"want the base's", "got tokenizer bbbb", "revoked",
        "no statistics for anchored routing", "frozen tensors cccc",
        "got width 32", "got block llama", "got kind \"dense\"", "router.smoothing 0.9",
        "want other.example/other", "code.example/code twice"}) {
    EXPECT_THAT(all, HasSubstr(part));
  }
}

TEST_F(PlanTest, SmoothingMattersOnlyToTheGate) {
  Recipe recipe = f().RecipeFor(f().experts());
  recipe.router.smoothing = 0;
  recipe.router.gate = false;
  EXPECT_THAT(MakePlan(recipe, f().base(), f().experts()).problems,
              IsEmpty());
}

TEST_F(PlanTest, TopKNeedsEnoughExperts) {
  Recipe recipe = f().RecipeFor(f().experts(), "topk");
  recipe.router.k = 5;
  EXPECT_THAT(MakePlan(recipe, f().base(), f().experts()).problems,
              IsEmpty());
  recipe.router.k = 6;
  EXPECT_THAT(MakePlan(recipe, f().base(), f().experts()).problems,
              Contains(HasSubstr("router.k = 6, want at most 5")));
}

TEST_F(PlanTest, MoreExpertsThanAMaskHolds) {
  std::vector<Part> parts(kMaxExperts + 1, f().experts()[0]);
  const Plan plan = MakePlan(f().RecipeFor(parts), f().base(), parts);
  EXPECT_THAT(plan.problems, Contains(HasSubstr("want at most 127")));
}

TEST_F(PlanTest, ABaseAloneIsAComposition) {
  const Plan plan = MakePlan(f().RecipeFor({}), f().base(), {});
  EXPECT_THAT(plan.problems, IsEmpty());
  EXPECT_THAT(MakePlan(f().RecipeFor({}), f().experts()[0], {}).problems,
              Not(IsEmpty()));
}

TEST_F(PlanTest, LockIsDeterministicAndReadsBack) {
  const Recipe recipe = f().RecipeFor(f().experts());
  const Plan a = MakePlan(recipe, f().base(), f().experts());
  const Plan b = MakePlan(recipe, f().base(), f().experts());
  const std::string text = WriteLock(a.lock);
  EXPECT_EQ(text, WriteLock(b.lock));
  const auto read = ParseLock(text, "motet.lock");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(WriteLock(*read), text);
  // Every field is written, also those at their default.
  EXPECT_THAT(text, HasSubstr("\"schema_version\": 1"));
  EXPECT_THAT(text, HasSubstr("\"smoothing\": 0.8,"));
  EXPECT_THAT(text, HasSubstr("\"not_before\": \"\""));
}

TEST_F(PlanTest, BadLocksAreRefusedWithAllReasons) {
  v1::CompositionLock lock =
      MakePlan(f().RecipeFor(f().experts()), f().base(), f().experts()).lock;
  lock.set_schema_version(0);
  lock.mutable_base()->set_weights_sha256("zz");
  lock.mutable_router()->set_kind("best");
  *lock.add_experts() = lock.experts(0);
  lock.set_exclusion("mostly");
  const auto read = ParseLock(WriteLock(lock), "x/motet.lock");
  ASSERT_FALSE(read.ok());
  for (const char* part :
       {"x/motet.lock", "schema_version", "base.weights_sha256", "router.kind",
        "each once", "exclusion"}) {
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(part));
  }
  // A newer version's, unknown fields and all, is called that.
  const auto newer = ParseLock(
      "{\"schema_version\": 2, \"software\": \"motet 9\", \"oracle\": {}}",
      "y/motet.lock");
  ASSERT_FALSE(newer.ok());
  for (const char* part : {"y/motet.lock", "schema_version = 2",
                           "made by motet 9", "use the newer version"}) {
    EXPECT_THAT(std::string(newer.status().message()), HasSubstr(part));
  }
  EXPECT_FALSE(ParseLock("{", "x").ok());
  EXPECT_FALSE(ParseLock("{\"unknown\": 1}", "x").ok());
}

}  // namespace
}  // namespace motet::assemble
