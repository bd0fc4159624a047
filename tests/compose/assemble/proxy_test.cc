// SPDX-License-Identifier: Apache-2.0
// Proxy data out of packages: what each owner scored highest and as much of
// the rest; packages without scores are named.
#include "compose/assemble/proxy.h"

#include "absl/strings/str_join.h"
#include "compose/assemble/method.h"
#include "gmock/gmock.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::assemble {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

TEST(ProxyDataTest, TakesWhatEachOwnerScoredHighestAndAsManyOthers) {
  TinyOptions options;
  options.proxy = true;
  const TinyFederation f(options);
  const std::vector<std::string> texts = TinyFederation::PublicDocuments();
  const auto one = ProxyDocuments(f.base(), f.Experts({1}), 1, 1);
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->size(), 2u);
  EXPECT_THAT(*one, Contains(texts[2]));
  const auto two = ProxyDocuments(f.base(), f.Experts({0, 3}), 2, 1);
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ(two->size(), 8u);  // 0, 1, 6, 7 and the four others
  EXPECT_EQ(*ProxyDocuments(f.base(), f.Experts({0, 3}), 2, 2), *two);
  EXPECT_EQ(*two, texts);  // in the order of the text
}

TEST(ProxyDataTest, PackagesWithoutScoresAreNamed) {
  const TinyFederation f;
  const auto none = ProxyDocuments(f.base(), f.Experts({0, 1}), 1, 1);
  EXPECT_THAT(std::string(none.status().message()),
              AllOf(HasSubstr("code.example/code@1.0.0"),
                    HasSubstr("legal.example/legal@1.0.0"),
                    HasSubstr("proxy_scores = true")));
}

TEST(ProxyDataTest, RecipeAndPlan) {
  const std::string head =
      "name = \"a\"\nexperts = []\n[router]\nkind = \"topk\"\n[tuning]\n";
  const auto recipe =
      ParseRecipe(head + "proxy = true\nproxy_documents = 9\n", "r.toml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_TRUE(recipe->tuning->proxy);
  EXPECT_EQ(recipe->tuning->proxy_documents, 9);
  const auto without = ParseRecipe(
      head + "data = [\"a.jsonl\"]\nproxy_documents = 9\n", "r.toml");
  EXPECT_THAT(std::string(without.status().message()),
              HasSubstr("tuning.proxy_documents"));
  const TinyFederation f;
  Recipe whole = TinyFederation::RecipeFor(f.experts(), "topk");
  whole.tuning.emplace().proxy = true;
  const Plan plan = MakePlan(whole, f.base(), f.experts());
  EXPECT_THAT(plan.problems, testing::IsEmpty());
  EXPECT_THAT(plan.notes, Contains(HasSubstr("each owner scored highest")));
}

}  // namespace
}  // namespace motet::assemble
