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
kind = "topk"
k = 3
smoothing = 0.5
gate = false
)",
                                  "r.toml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->name, "demo");
  EXPECT_THAT(recipe->experts,
              ElementsAre("code.example/code@1.0.0", "legal.example/legal"));
  EXPECT_EQ(recipe->router.kind, "topk");
  EXPECT_EQ(recipe->router.k, 3);
  EXPECT_EQ(recipe->router.smoothing, 0.5);
  EXPECT_FALSE(recipe->router.gate);
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
  EXPECT_THAT(inner, HasSubstr("kind, k, smoothing, gate"));
}

TEST(RecipeTest, AllProblemsAtOnce) {
  const std::string error = ErrorOf(
      "method = \"btx\"\nexperts = [3]\nx = 1\n[router]\nkind = \"best\"\n"
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
