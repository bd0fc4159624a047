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
  whole.tuning->proxy_documents = 3;
  whole.tuning->documents = whole.tuning->proxy_taken = 9;
  whole.tuning->data_sha256 = std::string(64, 'a');
  v1::CompositionLock lock = MakePlan(whole, f.base(), f.experts()).lock;
  EXPECT_EQ(lock.tuning().proxy().each(), 3u);
  EXPECT_EQ(lock.tuning().proxy().documents(), 9u);
  lock.mutable_tuning()->set_rows_sha256(std::string(64, 'b'));
  const auto parsed = ParseLock(WriteLock(lock), "motet.lock");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tuning().proxy().documents(), 9u);
  lock.mutable_tuning()->mutable_proxy()->set_documents(10);
  EXPECT_THAT(
      std::string(ParseLock(WriteLock(lock), "motet.lock").status().message()),
      HasSubstr("tuning.proxy of 3 documents an expert and 10"));
  whole.tuning->proxy = false;
  EXPECT_FALSE(
      MakePlan(whole, f.base(), f.experts()).lock.tuning().has_proxy());
}

}  // namespace
}  // namespace motet::assemble
