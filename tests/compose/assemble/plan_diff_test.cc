// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/plan_diff.h"

#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::assemble {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Property;

class PlanDiffTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { federation_ = new TinyFederation; }
  static void TearDownTestSuite() {
    delete federation_;
    federation_ = nullptr;
  }
  static const TinyFederation& f() { return *federation_; }
  static Plan PlanOf(const std::vector<Part>& parts,
                     const std::string& router = "topk") {
    Plan plan = MakePlan(f().RecipeFor(parts, router), f().base(), parts);
    EXPECT_THAT(plan.problems, IsEmpty());
    return plan;
  }
  static TinyFederation* federation_;
};
TinyFederation* PlanDiffTest::federation_ = nullptr;

TEST_F(PlanDiffTest, TheSameIsNoDifference) {
  const Plan plan = PlanOf(f().experts());
  const PlanDiff diff = DiffPlan(plan.lock, plan, {});
  EXPECT_TRUE(diff.same());
  EXPECT_THAT(diff.notes, IsEmpty());
}

TEST_F(PlanDiffTest, NamesWhoComesAndGoesWithTheirLicences) {
  const Plan before = PlanOf(f().Experts({0, 2}));
  const Plan after = PlanOf(f().Experts({0, 1}));
  std::map<std::string, int64_t> bytes = {{f().base().manifest_sha256, 1000}};
  bytes[f().experts()[0].manifest_sha256] = 100;
  const PlanDiff unknown = DiffPlan(before.lock, after, bytes);
  EXPECT_EQ(unknown.bytes_before, 0);  // of one that is not here
  bytes[f().experts()[2].manifest_sha256] = 10;
  const PlanDiff diff = DiffPlan(before.lock, after, bytes);
  EXPECT_FALSE(diff.same());
  EXPECT_THAT(diff.added, ElementsAre(Property(&v1::LockedExpert::id,
                                               "legal.example/legal@1.0.0")));
  EXPECT_THAT(diff.removed,
              ElementsAre(Property(&v1::LockedExpert::id,
                                   "manual.example/manual@1.0.0")));
  EXPECT_THAT(diff.parameters, IsEmpty());
  EXPECT_EQ(diff.bytes_before, 1110);
  EXPECT_EQ(diff.bytes_after, after.referenced_bytes);
  const std::string notes = absl::StrJoin(diff.notes, "\n");
  EXPECT_THAT(notes, HasSubstr("licence of legal.example/legal@1.0.0, new "
                               "here: CC-BY-4.0; not for advertising"));
  EXPECT_THAT(notes, HasSubstr("manual.example/manual@1.0.0, no longer"));
  EXPECT_THAT(notes, HasSubstr("trained, each of its own expert alone"));
}

TEST_F(PlanDiffTest, ParametersByTheirNames) {
  const Plan before = PlanOf(f().experts());
  Recipe recipe = f().RecipeFor(f().experts(), "topk");
  recipe.router.k = 3;
  recipe.router.renormalise = true;
  Plan after = MakePlan(recipe, f().base(), f().experts());
  using Change = PlanDiff::Change;
  const PlanDiff diff = DiffPlan(before.lock, after, {});
  ASSERT_EQ(diff.parameters.size(), 2u);
  EXPECT_THAT(diff.parameters, Contains(Field(&Change::what, "router.k")));
  EXPECT_EQ(diff.parameters[0].from, "2");
  EXPECT_EQ(diff.parameters[0].to, "3");
  EXPECT_EQ(diff.parameters[1].what, "router.renormalise");

  // A lock of before in which rows were tuned together, and less was promised.
  v1::CompositionLock tuned = before.lock;
  tuned.mutable_router()->set_rows("tuned");
  tuned.set_exclusion("routed");
  const PlanDiff back = DiffPlan(tuned, PlanOf(f().Experts({0, 1})), {});
  const std::string notes = absl::StrJoin(back.notes, "\n");
  EXPECT_THAT(notes, HasSubstr("were tuned in the presence of "
                               "code.example/code@1.0.0, legal"));
  EXPECT_THAT(notes, HasSubstr("exclusion: now exact"));
  EXPECT_THAT(back.parameters, Contains(Field(&Change::what, "router.rows")));
}

TEST_F(PlanDiffTest, ANewVersionInTheSamePlace) {
  const Plan before = PlanOf(f().experts());
  std::vector<Part> parts = f().experts();
  parts[1].manifest.set_id("legal.example/legal@1.1.0");
  parts[1].manifest.mutable_licence()->add_forbidden_purposes("war");
  parts[1].manifest_sha256 = std::string(64, 'd');
  const PlanDiff diff = DiffPlan(before.lock, PlanOf(parts), {});
  EXPECT_THAT(diff.added, IsEmpty());
  EXPECT_THAT(diff.removed, IsEmpty());
  ASSERT_EQ(diff.versions.size(), 1u);
  EXPECT_EQ(diff.versions[0].what, "legal.example/legal");
  EXPECT_THAT(diff.versions[0].to, HasSubstr("@1.1.0 (dddddddddddd)"));
  EXPECT_THAT(diff.notes, Contains(HasSubstr("not for advertising, war")));
}

TEST(RecipeWithTest, EditsExpertsAndTheListsThatFollow) {
  const std::string text =
      "name = \"soup\" # a comment\nmethod = \"merge\"\n"
      "experts = [\"a.example/a@1.0.0\", \"b.example/b@1.0.0\"]\n"
      "[merge]\nkind = \"ties\"\nweights = [0.25, 0.75]\n";
  const auto less = RecipeWith(text, {"b.example/b@1.0.0"}, {1});
  ASSERT_TRUE(less.ok()) << less.status();
  auto recipe = ParseRecipe(*less, "less.toml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->name, "soup");
  EXPECT_THAT(recipe->experts, ElementsAre("b.example/b@1.0.0"));
  EXPECT_EQ(recipe->merge.kind, "ties");
  EXPECT_THAT(recipe->merge.weights, ElementsAre(0.75));
  const auto more = RecipeWith(
      text, {"a.example/a@1.0.0", "b.example/b@1.0.0", "c.example/c"},
      {0, 1, -1});
  recipe = ParseRecipe(*more, "more.toml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->experts.size(), 3u);
  EXPECT_THAT(recipe->merge.weights, ElementsAre(0.25, 0.75));
  EXPECT_FALSE(RecipeWith("name = ", {}, {}).ok());
}

}  // namespace
}  // namespace motet::assemble
