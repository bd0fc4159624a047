// SPDX-License-Identifier: Apache-2.0
// Method ensemble over real packages: plan, lock and recipe, what is refused,
// and the measures. What is served is ensemble_served_test.cc's; that every
// subset equals its own composition guarantee_test.cc's.
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/export.h"
#include "compose/assemble/method.h"
#include "compose/assemble/plan_diff.h"
#include "compose/measure/exclusion.h"
#include "compose/measure/matrix.h"
#include "gmock/gmock.h"
#include "proto/digest.h"
#include "tests/compose/assemble/ensemble_fixture.h"

namespace motet::assemble {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Uneven pieces through states, and beside other sequences.
// The rows that nobody wants are read all the same: the posterior is of the
// whole prefix. A sink that has enough is not called again.
// As its owner trained it, unless the recipe says otherwise.
TEST(EnsembleFfnTest, RunsBesideTheBaseOrInItsPlace) {
  TinyOptions options;
  options.alone = 1;
  const TinyFederation f(options);
  const auto logits = [&](const std::string& ffn, int e) {
    Recipe recipe = RecipeFor(f.Experts({e}));
    recipe.ensemble.ffn = ffn;
    const Plan plan = MakePlan(recipe, f.base(), f.Experts({e}));
    EXPECT_THAT(plan.problems, IsEmpty());
    const auto c = f.Load(plan.lock);
    return LogitsOf(**c->ScorerFor(c->All()), f.Ids(20));
  };
  EXPECT_EQ(logits("", 0), logits("alone", 0));
  EXPECT_EQ(logits("", 1), logits("pair", 1));
  EXPECT_NE(logits("", 1), logits("alone", 1));
  // Alone, an FFN of zeros would be the trunk; here it is the expert's own:
  // the base with the FFNs changed.
  EXPECT_NE(logits("alone", 2), logits("alone", 1));
  Recipe pair = RecipeFor(f.Experts({0}));
  pair.ensemble.ffn = "pair";
  EXPECT_THAT(MakePlan(pair, f.base(), f.Experts({0})).problems,
              ElementsAre(AllOf(HasSubstr("code.example/code@1.0.0"),
                                HasSubstr("trained alone"))));
}

// The numbers of the lock, by hand: what each model makes of each document;
// posteriors from all alike; their moving average.
// By hand: the prefix's mean of the base's router inputs, each layer's
// direction against the owners', softmax over -d^2 / T.
TEST_F(EnsembleMethodTest, PlanSaysWhatItCosts) {
  Recipe recipe = RecipeFor(f().experts());
  recipe.ensemble.base = true;
  recipe.ensemble.top_k = 2;
  const Plan plan = MakePlan(recipe, f().base(), f().experts());
  EXPECT_THAT(plan.problems, IsEmpty());
  EXPECT_EQ(plan.lock.exclusion(), "exact");
  EXPECT_FALSE(plan.lock.has_router());
  const std::string notes = absl::StrJoin(plan.notes, "\n");
  for (const char* part :
       {"5 models", "not those that are run", "cannot be exported",
        "legal.example/legal@1.0.0 may not serve purpose advertising"}) {
    EXPECT_THAT(notes, HasSubstr(part));
  }
  // By hand: each model's tensors, the pair's with the base's FFNs and row.
  int64_t active = 0;
  const auto count = [&](const std::vector<package::NamedTensor>& tensors) {
    int64_t n = 0;
    for (const auto& [name, tensor] : tensors) n += tensor.size();
    return n;
  };
  const int64_t base = count(f().base_weights());
  active = base + count(f().branch(1)) + count(f().branch(2)) +
           count(f().branch(3)) + base + 2 * (3 * 24 * 16 + 16);
  EXPECT_EQ(plan.active_parameters, active);
}

TEST_F(EnsembleMethodTest, PlanListsAllThatDoesNotFit) {
  std::vector<Part> parts = f().experts();
  parts[1].manifest.mutable_base()->set_tokenizer_sha256(std::string(64, 'a'));
  parts[2].manifest.mutable_base()->set_manifest_sha256(std::string(64, 'b'));
  parts[3].manifest.set_kind("encoder_lora");
  parts[0].revoked = true;
  Recipe recipe = RecipeFor(parts, "uniform");
  recipe.ensemble.top_k = 5;
  const auto problems = MakePlan(recipe, f().base(), parts).problems;
  const auto one_of = [](const std::string& where, const std::string& what) {
    return Contains(AllOf(HasSubstr(where), HasSubstr(what)));
  };
  EXPECT_THAT(problems, one_of("recipe", "ensemble.top_k = 5, want at most 4"));
  EXPECT_THAT(problems, one_of("recipe", "top_k with weights \"uniform\""));
  EXPECT_THAT(problems, one_of("legal.example", "tokenizer aaaaaaaaaaaa"));
  EXPECT_THAT(problems, one_of("manual.example", "manifest bbbbbbbbbbbb"));
  EXPECT_THAT(problems, one_of("health.example", "kind \"encoder_lora\""));
  EXPECT_THAT(problems, one_of("code.example", "revoked"));

  recipe = RecipeFor(f().Experts({1}), "prior");
  EXPECT_THAT(MakePlan(recipe, f().base(), f().Experts({1})).problems,
              ElementsAre(HasSubstr("\"prior\" without text")));
  recipe.ensemble.weights = "centroid";
  recipe.ensemble.prior_text = "x.jsonl";
  parts = f().Experts({1});
  parts[0].manifest.mutable_domain()->clear_anchored();
  EXPECT_THAT(MakePlan(recipe, f().base(), parts).problems,
              AllOf(one_of("recipe", "prior_text with weights \"centroid\""),
                    one_of("legal.example",
                           "no means of the base's router "
                           "inputs")));
  recipe = RecipeFor(f().Experts({1}));
  recipe.ensemble.temperature = 0.2;
  EXPECT_THAT(MakePlan(recipe, f().base(), f().Experts({1})).problems,
              ElementsAre(HasSubstr("temperature with weights \"bayes\"")));
  recipe = RecipeFor(f().Experts({1}), "likely");
  recipe.ensemble.ffn = "alone";
  EXPECT_THAT(MakePlan(recipe, f().base(), f().Experts({1})).problems,
              AllOf(one_of("recipe", "ensemble.weights = \"likely\""),
                    one_of("recipe", "ensemble.ffn without experts of kind")));
  EXPECT_THAT(MakePlan(RecipeFor({}), f().base(), {}).problems,
              one_of("recipe", "no experts"));
}

TEST_F(EnsembleMethodTest, LocksThatCannotBeAreRefused) {
  const auto lock =
      MakePlan(RecipeFor(f().experts()), f().base(), f().experts()).lock;
  const auto refusal = [&](const std::function<void(v1::EnsembleLock&)>& set) {
    v1::CompositionLock changed = lock;
    set(*changed.mutable_ensemble());
    return std::string(
        ParseLock(WriteLock(changed), "motet.lock").status().message());
  };
  EXPECT_EQ(refusal([](v1::EnsembleLock&) {}), "");
  EXPECT_THAT(refusal([](v1::EnsembleLock& e) { e.set_weights("x"); }),
              HasSubstr("ensemble.weights = \"x\""));
  EXPECT_THAT(refusal([](v1::EnsembleLock& e) { e.set_top_k(6); }),
              HasSubstr("ensemble.top_k = 6"));
  EXPECT_THAT(refusal([](v1::EnsembleLock& e) { e.set_ffn("half"); }),
              HasSubstr("ensemble.ffn = \"half\""));
  EXPECT_THAT(refusal([](v1::EnsembleLock& e) { e.set_weights("prior"); }),
              HasSubstr("ensemble.weights = \"prior\" without a prior"));
  EXPECT_THAT(refusal([](v1::EnsembleLock& e) { e.set_weights("centroid"); }),
              HasSubstr("ensemble.temperature = 0"));
  EXPECT_THAT(refusal([](v1::EnsembleLock& e) {
                v1::PriorLock& prior = *e.mutable_prior();
                prior.set_rate(0.3);
                prior.set_sequences(2);
                for (int i = 0; i < 3; ++i) prior.add_experts()->add_ln_p(-1);
              }),
              AllOf(HasSubstr("ensemble.prior of 3 experts (want all 4)"),
                    HasSubstr("ln_p (want 2 numbers of each model")));
}

TEST_F(EnsembleMethodTest, SectionsOfOtherMethodsAreRefused) {
  const auto refusal =
      [&](const std::string& method,
          const std::function<void(v1::CompositionLock&)>& set) {
        Recipe recipe = RecipeFor(f().Experts({1}), "uniform");
        recipe.method = method;
        v1::CompositionLock lock =
            MakePlan(recipe, f().base(), f().Experts({1})).lock;
        set(lock);
        return std::string(
            ParseLock(WriteLock(lock), "motet.lock").status().message());
      };
  const auto nothing = [](v1::CompositionLock&) {};
  EXPECT_EQ(refusal("ensemble", nothing), "");
  EXPECT_EQ(refusal("merge", nothing), "");
  EXPECT_THAT(refusal("ensemble", [](auto& l) { l.mutable_router(); }),
              HasSubstr("a section router (want none for method ensemble)"));
  EXPECT_THAT(refusal("ensemble", [](auto& l) { l.mutable_btx(); }),
              HasSubstr("a section btx"));
  EXPECT_THAT(refusal("merge", [](auto& l) { l.mutable_tuning(); }),
              HasSubstr("a section tuning (want none for method merge)"));
  EXPECT_THAT(refusal("merge", [](auto& l) { l.mutable_ensemble(); }),
              HasSubstr("a section ensemble"));
}

// A lock whose expert was trained beside another trunk: no plan makes one.
TEST_F(EnsembleMethodTest, AnFfnOfAnotherBaseIsRefused) {
  const Part part = f().experts()[0];
  const auto lock = MakePlan(RecipeFor({part}), f().base(), {part}).lock;
  const std::string folder = f().Path("foreign");
  std::filesystem::copy(part.folder, folder);
  const std::string path = folder + "/manifest.json";
  const std::string text = *proto::ReadFile(path, 1 << 20);
  const auto refusal = [&](const std::string& from) {
    std::string other = text;
    for (size_t at; (at = other.find(from)) != std::string::npos;) {
      other.replace(at, 64, std::string(64, 'e'));
    }
    EXPECT_NE(other, text);
    EXPECT_TRUE(proto::WriteFileAtomic(path, other).ok());
    v1::CompositionLock changed = lock;
    const std::string sha256 = proto::Hex(proto::Sha256(other));
    changed.mutable_experts(0)->set_manifest_sha256(sha256);
    const auto loaded = LoadComposition(
        changed,
        [&](const std::string& asked) -> absl::StatusOr<std::string> {
          return asked == sha256 ? folder : f().FolderOf()(asked);
        },
        {});
    EXPECT_FALSE(loaded.ok());
    return std::string(loaded.status().message());
  };
  EXPECT_THAT(refusal(f().base().manifest_sha256),
              AllOf(HasSubstr("expert code.example/code@1.0.0"),
                    HasSubstr("base.manifest_sha256")));
  EXPECT_THAT(refusal(part.manifest.frozen_sha256()),
              HasSubstr("frozen_sha256"));
}

TEST_F(EnsembleMethodTest, RecipeTextAndItsDifference) {
  const auto recipe = ParseRecipe(
      "name = \"demo\"\nmethod = \"ensemble\"\n"
      "experts = [\"code.example/code\", \"legal.example/legal\"]\n"
      "[ensemble]\nweights = \"bayes\"\ntop_k = 2\nbase = true\n",
      "r.toml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->ensemble.top_k, 2);
  EXPECT_TRUE(recipe->ensemble.base);
  const auto wrong = ParseRecipe(
      "name = \"demo\"\nmethod = \"ensemble\"\nexperts = [\"a.b/c\"]\n"
      "[ensemble]\nweights = \"best\"\ntop_k = 0\nkind = 1\n[router]\nk = 2\n",
      "r.toml");
  for (const char* part :
       {"ensemble.weights", "ensemble.top_k", "ensemble.kind", "[router]"}) {
    EXPECT_THAT(std::string(wrong.status().message()), HasSubstr(part));
  }
  const Plan before = MakePlan(*recipe, f().base(), f().Experts({0, 1}));
  Recipe more = RecipeFor(f().Experts({0, 1, 2}));
  const Plan after = MakePlan(more, f().base(), f().Experts({0, 1, 2}));
  const PlanDiff diff = DiffPlan(before.lock, after, {});
  ASSERT_EQ(diff.added.size(), 1u);
  std::vector<std::string> names;
  for (const auto& change : diff.parameters) names.push_back(change.what);
  EXPECT_THAT(names,
              AllOf(Contains("ensemble.top_k"), Contains("ensemble.base")));
}

TEST_F(EnsembleMethodTest, IsNeitherRoutedNorExported) {
  const auto c = Compose(RecipeFor(f().experts()), f().experts());
  const auto decoder = c->DecoderFor(c->All());
  EXPECT_THAT(std::string(decoder.status().message()), HasSubstr("ensemble"));
  EXPECT_THAT(std::string(c->ScorerFor(c->All(), 2).status().message()),
              HasSubstr("experts.active"));
  LoadOptions options;
  options.router = "topk";
  EXPECT_THAT(
      std::string(
          LoadComposition(c->lock, f().FolderOf(), options).status().message()),
      HasSubstr("none: an ensemble weighs whole models"));
  const std::string folder = f().Path("exported");
  EXPECT_THAT(
      std::string(ExportHuggingFace(*c, folder).status().message()),
      AllOf(HasSubstr("method = \"ensemble\""), HasSubstr("4 whole models")));
  EXPECT_FALSE(std::filesystem::exists(folder));
}

TEST_F(EnsembleMethodTest, MatrixAndExclusionProofs) {
  Recipe recipe = RecipeFor(f().experts());
  recipe.ensemble.base = true;
  const auto c = Compose(recipe, f().experts());
  const auto proofs = measure::ProveExclusion(c->lock, f().FolderOf(),
                                              {1, 2, 3, 4}, f().Ids(100));
  ASSERT_TRUE(proofs.ok()) << proofs.status();
  for (const auto& proof : *proofs) {
    EXPECT_TRUE(proof.equal()) << proof.expert;
    EXPECT_NE(proof.excluded_sha256, proof.included_sha256) << proof.expert;
  }
  std::vector<measure::Domain> domains;
  for (const std::string& text : TinyFederation::Documents()) {
    domains.push_back({absl::StrCat("d", domains.size()), {text, text, text}});
  }
  measure::MatrixOptions options;
  options.window = 20;
  const auto matrix = measure::MeasureMatrix(*c, domains, options);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_THAT(
      matrix->models,
      ElementsAre("base", "base + code", "base + legal", "base + manual",
                  "base + health", "composition", "without code",
                  "without legal", "without manual", "without health"));
  // Composed for the row, it is the row.
  LoadOptions only;
  only.all = false;
  only.only = {1, 2, 4};
  const auto rest =
      measure::MeasureMatrix(*f().Load(c->lock, only), domains, options);
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_EQ(matrix->values[8], rest->values[4]);
  EXPECT_NE(matrix->values[8], matrix->values[5]);
}

}  // namespace
}  // namespace motet::assemble
