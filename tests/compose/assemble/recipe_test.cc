// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/recipe.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace motet::assemble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string ErrorOf(const std::string& toml) {
  const auto recipe = ParseRecipe(toml, "r.toml");
  EXPECT_FALSE(recipe.ok()) << toml;
  return std::string(recipe.status().message());
}

TEST(RecipeTest, ReadsEveryKey) {
  const auto recipe = ParseRecipe(R"(
name = "demo"
method = "flexolmo"
experts = ["code.example/code@1.0.0", "legal.example/legal"]
[router]
kind = "anchored"
k = 3
smoothing = 0.5
mixing = "switch"
gate = false
)",
                                  "r.toml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->name, "demo");
  EXPECT_THAT(recipe->experts,
              ElementsAre("code.example/code@1.0.0", "legal.example/legal"));
  EXPECT_EQ(recipe->router.kind, "anchored");
  EXPECT_EQ(recipe->router.k, 3);
  EXPECT_EQ(recipe->router.smoothing, 0.5);
  EXPECT_EQ(recipe->router.mixing, "switch");
  EXPECT_FALSE(recipe->router.gate);
}

Recipe::Router RouterOf(const std::string& method, const std::string& options) {
  const auto recipe = ParseRecipe(
      absl::StrCat("name = \"a\"\nexperts = []\nmethod = \"", method,
                   "\"\n[router]\n", options),
      "r.toml");
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return recipe.ok() ? recipe->router : Recipe::Router();
}

TEST(RecipeTest, ReadsEveryKindOfRouter) {
  const Recipe::Router top_k = RouterOf(
      "flexolmo", "kind = \"topk\"\nk = 3\nnull_experts = 2\nmost_active = 4");
  EXPECT_EQ(top_k.k, 3);
  EXPECT_EQ(top_k.null_experts, 2);
  EXPECT_EQ(top_k.most_active, 4);
  EXPECT_FALSE(top_k.renormalise.has_value());
  EXPECT_FALSE(top_k.shared);
  const Recipe::Router shared =
      RouterOf("flexolmo", "kind = \"topk\"\nshared = true");
  EXPECT_TRUE(shared.shared);
  EXPECT_EQ(shared.k, 1);  // two FFNs a token, as without
  EXPECT_EQ(RouterOf("btx", "k = 3\nshared = true\n[btx]\nchunks = 2").k, 3);
  EXPECT_EQ(RouterOf("btx", "shared = true\n[btx]\nchunks = 2").k, 2);
  EXPECT_EQ(RouterOf("bam", "shared = true").k, 1);
  EXPECT_TRUE(RouterOf("dume", "shared = true").shared);
  const Recipe::Router top_p = RouterOf(
      "flexolmo", "kind = \"topp\"\ntop_p = 0.6\nrenormalise = true");
  EXPECT_EQ(top_p.top_p, 0.6);
  EXPECT_EQ(top_p.renormalise, true);
  EXPECT_TRUE(RouterOf("flexolmo", "smoothing = \"prefix\"").prefix_mean);
  EXPECT_EQ(RouterOf("flexolmo", "smoothing = 0").smoothing, 0);
  const Recipe::Router gate =
      RouterOf("flexolmo", "gate_rank = 8\ncovariance = \"pooled\"");
  EXPECT_EQ(gate.gate_rank, 8);
  EXPECT_EQ(gate.covariance, "pooled");
  const std::string head = "name = \"a\"\nexperts = []\n[router]\n";
  EXPECT_THAT(ErrorOf(head + "gate_rank = -1\ncovariance = \"own\"\n"),
              AllOf(HasSubstr("a whole number from 0 to 4096"),
                    HasSubstr("\"public\" or \"pooled\"")));
  EXPECT_THAT(ErrorOf(head + "gate = false\ngate_rank = 8\n"),
              HasSubstr("none with gate = false"));
  EXPECT_THAT(ErrorOf(head + "kind = \"topk\"\ncovariance = \"pooled\"\n"),
              HasSubstr("it with router.kind \"anchored\" only"));
  const Recipe::Router dume = RouterOf("dume", "ridge = 0.5");
  EXPECT_EQ(dume.kind, "topk");
  EXPECT_EQ(dume.ridge, 0.5);
}

TEST(RecipeTest, OptionsOfAnotherKindAreNamedWithTheirLine) {
  const std::string error = ErrorOf(
      "name = \"a\"\nexperts = []\n[router]\nkind = \"topk\"\n"
      "smoothing = 0.5\ntop_p = 0.4\ngate = true\nridge = 1\n"
      "null_experts = 1\nrenormalise = false\n");
  for (const char* part :
       {"line 5", "\"router.smoothing\"", "line 6", "\"router.top_p\"",
        "line 7", "\"router.gate\"", "line 8", "\"router.ridge\"", "line 10",
        "\"router.renormalise\""}) {
    EXPECT_THAT(error, HasSubstr(part));
  }
  for (const char* kind : {"anchored", "topp"}) {
    EXPECT_THAT(ErrorOf(absl::StrCat("name = \"a\"\nexperts = []\n[router]\n"
                                     "kind = \"", kind,
                                     "\"\nshared = true\n")),
                AllOf(HasSubstr("line 5"), HasSubstr("\"router.shared\""),
                      HasSubstr("anchored pairs have it")));
  }
  EXPECT_THAT(ErrorOf("name = \"a\"\nexperts = []\nmethod = \"dume\"\n"
                      "[router]\nkind = \"anchored\"\n"),
              HasSubstr("\"router.kind\" with method \"dume\""));
}

TEST(RecipeTest, AnchoredIsTheDefault) {
  const auto recipe = ParseRecipe("name = \"a\"\nexperts = []", "r.toml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->router.kind, "anchored");
  EXPECT_EQ(recipe->router.smoothing, 0.8);
  EXPECT_TRUE(recipe->router.gate);
}

TEST(RecipeTest, UnknownKeyNamesLineAndKnownKeys) {
  const std::string error =
      ErrorOf("name = \"a\"\nexperts = []\nrooter = 1\n");
  EXPECT_THAT(error, HasSubstr("r.toml line 3"));
  EXPECT_THAT(error, HasSubstr("\"rooter\""));
  EXPECT_THAT(error, HasSubstr("name, method, experts, router"));
  const std::string inner =
      ErrorOf("name = \"a\"\nexperts = []\n[router]\nkk = 1\n");
  EXPECT_THAT(inner, HasSubstr("line 4"));
  EXPECT_THAT(inner, HasSubstr("\"router.kk\""));
  EXPECT_THAT(inner, HasSubstr("kind, k, null_experts, shared, top_p, "
                               "renormalise, most_active, smoothing, mixing, "
                               "gate, quantile, gate_rank, covariance, "
                               "temperature, ridge"));
}

TEST(RecipeTest, AllProblemsAtOnce) {
  const std::string error = ErrorOf(
      "method = \"blend\"\nexperts = [3]\nx = 1\n[router]\nkind = \"best\"\n"
      "k = 0\nsmoothing = 1\ngate = \"yes\"\n");
  for (const char* part :
       {"\"method\"", "\"experts\"", "\"x\"", "\"router.kind\"",
        "\"router.k\"", "\"router.smoothing\"", "\"router.gate\"",
        "no key \"name\""}) {
    EXPECT_THAT(error, HasSubstr(part));
  }
}

TEST(RecipeTest, ReadsEveryKeyOfMerge) {
  const auto recipe = ParseRecipe(R"(
name = "demo"
method = "merge"
experts = ["code.example/code"]
[merge]
kind = "ties"
weights = [1, 0.5]
lambda = 2
density = 0.25
ratio = 0.1
epsilon = 0.001
t = 0.5
seed = 9
)",
                                  "r.toml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->method, "merge");
  EXPECT_EQ(recipe->merge.kind, "ties");
  EXPECT_THAT(recipe->merge.weights, ElementsAre(1, 0.5));
  EXPECT_EQ(recipe->merge.lambda, 2);
  EXPECT_EQ(recipe->merge.density, 0.25);
  EXPECT_EQ(recipe->merge.ratio, 0.1);
  EXPECT_EQ(recipe->merge.epsilon, 0.001);
  EXPECT_EQ(recipe->merge.t, 0.5);
  EXPECT_EQ(recipe->merge.seed, 9u);
}

TEST(RecipeTest, ASectionOfAnotherMethodIsRefusedByName) {
  EXPECT_THAT(ErrorOf("name = \"a\"\nmethod = \"merge\"\nexperts = []\n"
                      "[router]\nk = 2\n"),
              testing::AllOf(HasSubstr("line 4"), HasSubstr("[router]"),
                             HasSubstr("it belongs to \"flexolmo\"")));
  EXPECT_THAT(ErrorOf("name = \"a\"\nexperts = []\n[merge]\n"),
              testing::AllOf(HasSubstr("[merge]"),
                             HasSubstr("it belongs to \"merge\"")));
}

TEST(RecipeTest, MergeValuesThatDoNotFit) {
  const std::string error = ErrorOf(
      "name = \"a\"\nmethod = \"merge\"\nexperts = []\n[merge]\n"
      "kind = \"blend\"\nweights = []\nlambda = \"x\"\nseed = -1\n"
      "density = nan\nalpha = 1\n");
  for (const char* part :
       {"\"merge.kind\"", "task_arithmetic", "\"merge.weights\"",
        "\"merge.lambda\"", "\"merge.seed\"", "\"merge.density\"",
        "\"merge.alpha\""}) {
    EXPECT_THAT(error, HasSubstr(part));
  }
}

TEST(RecipeTest, NamesCannotLeaveTheirFolder) {
  for (const char* name : {"", "../x", "a/b", ".hidden", "A", "a b"}) {
    EXPECT_THAT(ErrorOf(absl::StrCat("name = \"", name, "\"\nexperts = []")),
                HasSubstr("\"name\""));
  }
  for (const char* id : {"code", "a/b/c", "../x@1", "a/b@", "a@1/b"}) {
    EXPECT_THAT(
        ErrorOf(absl::StrCat("name = \"a\"\nexperts = [\"", id, "\"]")),
        HasSubstr("experts"));
  }
}

TEST(RecipeTest, BrokenTomlNamesTheLine) {
  EXPECT_THAT(ErrorOf("name = \"a\"\nexperts = [\n\"x"),
              HasSubstr("r.toml line 3"));
  EXPECT_FALSE(ParseRecipe(std::string(2 << 20, '#'), "r.toml").ok());
  EXPECT_FALSE(ParseRecipe("name = \"\xff\xfe\"", "r.toml").ok());
}

}  // namespace
}  // namespace motet::assemble
