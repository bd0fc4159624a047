// SPDX-License-Identifier: Apache-2.0
// The guarantee that plans state, for every method there is and every subset
// of four experts: under "exact", a query for the subset gives, bit for bit,
// the logits of the subset composed alone by its own recipe, whose lock is
// the one that the composition names. A method without a row in Variants()
// fails.
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compose/assemble/method.h"
#include "compose/measure/exclusion.h"
#include "gmock/gmock.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::assemble {
namespace {

using testing::IsEmpty;

// A recipe of a method, by what differs from the defaults.
struct Variant {
  const char* name;
  std::string kind;  // of the experts' packages
  std::function<void(Recipe&)> set;
};

const std::multimap<std::string, Variant>& Variants() {
  const auto router = [](const char* kind) {
    return [kind](Recipe& r) { r.router.kind = kind; };
  };
  static const auto* const variants = new std::multimap<std::string, Variant>{
      {"flexolmo", {"anchored", "ffn", router("anchored")}},
      {"flexolmo",
       {"gate of a rank", "ffn", [](Recipe& r) { r.router.gate_rank = 4; }}},
      {"flexolmo",
       {"pooled", "ffn",
        [](Recipe& r) {  // the gate off, or too few tokens have an expert
          r.router.covariance = "pooled";
          r.router.gate = false;
          r.router.smoothing = 0;
        }}},
      {"flexolmo", {"topk", "ffn", router("topk")}},
      {"flexolmo", {"topp", "ffn", router("topp")}},
      {"dume", {"topk", "ffn", router("topk")}},
      {"merge",
       {"linear", "dense", [](Recipe& r) { r.merge.kind = "linear"; }}},
      {"merge", {"ties", "dense", [](Recipe& r) { r.merge.kind = "ties"; }}},
      {"merge", {"dare", "dense", [](Recipe& r) { r.merge.kind = "dare"; }}},
      {"btx", {"topk", "dense", router("topk")}},
      {"btx", {"topp", "dense", router("topp")}},
      {"btx", {"switch", "dense", router("switch")}},
      {"btx", {"soft", "dense", router("soft")}},
      {"btx", {"sample", "dense", router("sample")}},
      {"btx",
       {"random rows", "dense",
        [](Recipe& r) {
          r.router.kind = "topk";
          r.btx.rows = "random";
          r.btx.seed = 5;
        }}},
      {"btx",
       {"chunks", "dense",
        [](Recipe& r) {
          r.router.kind = "topk";
          r.router.k = 4;
          r.btx.chunks = 2;
        }}},
      {"bam",
       {"own KV", "attention_ffn",
        [](Recipe& r) {
          r.router.kind = "topk";
          r.router.k = 1;
        }}},
      {"bam",
       {"shared KV", "attention_ffn",
        [](Recipe& r) {
          r.router.kind = "topk";
          r.bam.kv = "shared";
          r.bam.rows = "random";
        }}},
  };
  return *variants;
}

class GuaranteeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    federations_ = new std::map<std::string, std::unique_ptr<TinyFederation>>;
    for (const std::string kind : {"ffn", "dense", "attention_ffn"}) {
      TinyOptions options;
      options.dense = kind != "ffn";
      if (options.dense) options.kind = kind;
      options.block =
          options.dense ? model::Block::kPreNorm : model::Block::kPostNorm;
      (*federations_)[kind] = std::make_unique<TinyFederation>(options);
    }
  }
  static void TearDownTestSuite() { delete federations_; }

  static Recipe RecipeOf(const Method& method, const Variant& variant,
                         const std::vector<Part>& parts) {
    Recipe recipe = TinyFederation::RecipeFor(parts);
    recipe.method = method.name;
    variant.set(recipe);
    return recipe;
  }

  // Every subset of a variant's composition.
  static void Check(const Method& method, const Variant& variant) {
    const TinyFederation& f = *federations_->at(variant.kind);
    const Plan plan =
        MakePlan(RecipeOf(method, variant, f.experts()), f.base(), f.experts());
    ASSERT_THAT(plan.problems, IsEmpty());
    ASSERT_EQ(plan.lock.exclusion(), "exact");
    const auto whole = f.Load(plan.lock);
    ASSERT_NE(whole, nullptr);
    const auto logits = [&](const model::Decoder& decoder, math::ExpertMask set,
                            int64_t chunk) {
      return measure::LogitsSha256(decoder, f.Ids(30), set, chunk);
    };
    std::set<std::string> different;
    for (math::ExpertMask set = 1; set < 32; set += 2) {
      SCOPED_TRACE(absl::StrCat("set ", static_cast<int>(set)));
      LoadOptions only;
      only.all = false;
      std::vector<int> which;
      for (int e = 1; e <= 4; ++e) {
        if ((set >> e & 1) == 0) continue;
        only.only.push_back(e);
        which.push_back(e - 1);
      }
      const auto alone = f.Load(plan.lock, only);
      ASSERT_NE(alone, nullptr);
      if (!which.empty()) {
        // The very lock that the subset's own recipe makes.
        const auto parts = f.Experts(which);
        const Plan own =
            MakePlan(RecipeOf(method, variant, parts), f.base(), parts);
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
    // Else the comparisons would be empty.
    EXPECT_GT(different.size(), 8u);
  }

  static std::map<std::string, std::unique_ptr<TinyFederation>>* federations_;
};
std::map<std::string, std::unique_ptr<TinyFederation>>*
    GuaranteeTest::federations_ = nullptr;

TEST_F(GuaranteeTest, HoldsForEveryMethodAndSubset) {
  for (const Method& method : Methods()) {
    EXPECT_TRUE(Variants().contains(method.name)) << method.name;
    const auto [first, last] = Variants().equal_range(method.name);
    for (auto it = first; it != last; ++it) {
      SCOPED_TRACE(absl::StrCat(method.name, " ", it->second.name));
      Check(method, it->second);
    }
  }
}

}  // namespace
}  // namespace motet::assemble
