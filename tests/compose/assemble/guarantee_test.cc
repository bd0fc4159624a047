// SPDX-License-Identifier: Apache-2.0
// The guarantee that plans state, for every method there is and every subset
// of four experts: under "exact", a query for the subset gives, bit for bit,
// the logits of the subset composed alone by its own recipe, whose lock is
// the one that the composition names. A method without a row in Variants()
// fails. Tuned rows answer for all experts alone: every narrower set is the
// subset composed by a recipe without tuning.
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compose/assemble/method.h"
#include "compose/assemble/tuning.h"
#include "compose/learn/corpus.h"
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

// The same, with rows tuned on a little text.
std::function<void(Recipe&)> Tuned(std::function<void(Recipe&)> set) {
  return [set = std::move(set)](Recipe& r) {
    set(r);
    Recipe::Tuning& t = r.tuning.emplace();
    t.data = {"text.jsonl"};
    t.data_sha256 = DocumentsSha256(TinyFederation::Documents());
    t.documents = TinyFederation::Documents().size();
    t.steps = 3;
    t.learning_rate = 0.05;
    t.batch_sequences = 2;
    t.sequence_tokens = 16;
  };
}

// Held-out text, in a file of its own.
std::string PriorText() {
  return absl::StrCat(testing::TempDir(), "guarantee_prior.jsonl");
}

const std::multimap<std::string, Variant>& Variants() {
  const auto router = [](const char* kind) {
    return [kind](Recipe& r) { r.router.kind = kind; };
  };
  const auto shared = [](int chunks) {
    return [chunks](Recipe& r) {
      r.router.kind = "topk";
      r.router.k = r.btx.chunks = chunks;
      r.router.shared = true;
    };
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
      {"flexolmo", {"shared base", "ffn", shared(1)}},
      {"dume", {"topk", "ffn", router("topk")}},
      {"dume", {"shared base", "ffn", shared(1)}},
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
      {"btx", {"shared base", "dense", shared(1)}},
      {"btx", {"shared base in chunks", "dense", shared(2)}},
      {"bam", {"shared base", "attention_ffn", shared(1)}},
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
      {"flexolmo", {"tuned topk", "ffn", Tuned(router("topk"))}},
      {"flexolmo", {"tuned topp", "ffn", Tuned(router("topp"))}},
      {"btx", {"tuned topk", "dense", Tuned(router("topk"))}},
      {"btx", {"tuned sample", "dense", Tuned(router("sample"))}},
      {"flexolmo", {"tuned, shared base", "ffn", Tuned(shared(1))}},
      {"btx", {"tuned, shared base", "dense", Tuned(shared(1))}},
      {"btx",
       {"tuned chunks", "dense", Tuned([](Recipe& r) {
          r.router.kind = "topk";
          r.router.k = 4;
          r.btx.chunks = 2;
          r.btx.rows = "random";
        })}},
      {"bam",
       {"tuned, own KV", "attention_ffn", Tuned([](Recipe& r) {
          r.router.kind = "topk";
          r.router.k = 1;
        })}},
      {"bam",
       {"tuned, shared KV", "attention_ffn", Tuned([](Recipe& r) {
          r.router.kind = "topk";
          r.bam.kv = "shared";
        })}},
      {"ensemble",
       {"uniform", "dense", [](Recipe& r) { r.ensemble.weights = "uniform"; }}},
      {"ensemble", {"bayes", "dense", [](Recipe&) {}}},
      {"ensemble",
       {"bayes, top 1", "attention_ffn",
        [](Recipe& r) { r.ensemble.top_k = 1; }}},
      {"ensemble",
       {"of every kind, with the base, top 2", "mixed",
        [](Recipe& r) {
          r.ensemble.base = true;
          r.ensemble.top_k = 2;
        }}},
      {"ensemble",
       {"a learnt prior, top 2, the base", "mixed",
        [](Recipe& r) {
          r.ensemble.weights = "prior";
          r.ensemble.prior_text = PriorText();
          r.ensemble.base = true;
          r.ensemble.top_k = 2;
        }}},
      {"ensemble",
       {"bayes from a learnt prior", "ffn",
        [](Recipe& r) { r.ensemble.prior_text = PriorText(); }}},
      {"ensemble",
       {"centroid", "mixed",
        [](Recipe& r) { r.ensemble.weights = "centroid"; }}},
      {"ensemble",
       {"centroid, with the base", "dense",
        [](Recipe& r) {
          r.ensemble.weights = "centroid";
          r.ensemble.base = true;
        }}},
      {"ensemble", {"pairs", "ffn", [](Recipe&) {}}},
      {"ensemble",
       {"FFNs alone", "ffn",
        [](Recipe& r) {
          r.ensemble.ffn = "alone";
          r.ensemble.base = true;
        }}},
  };
  return *variants;
}

class GuaranteeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    ASSERT_TRUE(
        learn::WriteJsonl(PriorText(), TinyFederation::Documents()).ok());
    federations_ = new std::map<std::string, std::unique_ptr<TinyFederation>>;
    for (const std::string kind : {"ffn", "dense", "attention_ffn", "mixed"}) {
      TinyOptions options;
      options.dense = kind != "ffn";
      if (kind == "mixed") {
        options.kinds = {"ffn", "dense", "sized", "attention_ffn"};
      } else if (options.dense) {
        options.kind = kind;
      }
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

  // The lock that an apply would write.
  static v1::CompositionLock LockOf(const TinyFederation& f,
                                    const Recipe& recipe,
                                    const std::vector<Part>& parts) {
    Plan plan = MakePlan(recipe, f.base(), parts);
    EXPECT_THAT(plan.problems, IsEmpty());
    const absl::Status learnt = LearnLock(recipe, f.FolderOf(), {}, plan.lock);
    EXPECT_TRUE(learnt.ok()) << learnt;
    return plan.lock;
  }

  // Every subset of a variant's composition.
  static void Check(const Method& method, const Variant& variant) {
    const TinyFederation& f = *federations_->at(variant.kind);
    v1::CompositionLock lock =
        LockOf(f, RecipeOf(method, variant, f.experts()), f.experts());
    ASSERT_EQ(lock.exclusion(), "exact");
    LoadOptions load;
    if (lock.has_tuning()) Tune(f, lock, load);
    const auto whole = f.Load(lock, load);
    ASSERT_NE(whole, nullptr);
    const auto logits = [&](const model::Scorer& scorer, int64_t chunk) {
      return measure::LogitsSha256(scorer, f.Ids(30), chunk);
    };
    std::set<std::string> different;
    for (math::ExpertMask set = 1; set < 32; set += 2) {
      SCOPED_TRACE(absl::StrCat("set ", static_cast<int>(set)));
      LoadOptions only = load;
      only.all = false;
      std::vector<int> which;
      for (int e = 1; e <= 4; ++e) {
        if ((set >> e & 1) == 0) continue;
        only.only.push_back(e);
        which.push_back(e - 1);
      }
      const auto alone = f.Load(lock, only);
      ASSERT_NE(alone, nullptr);
      if (which.size() == 4) {
        EXPECT_EQ(WriteLock(alone->lock), WriteLock(lock));
      } else if (!which.empty()) {
        // The very lock that the subset's own recipe makes.
        const auto parts = f.Experts(which);
        Recipe recipe = RecipeOf(method, variant, parts);
        recipe.tuning.reset();
        EXPECT_EQ(WriteLock(alone->lock),
                  WriteLock(LockOf(f, recipe, parts)));
      }
      const auto scorer = whole->ScorerFor(set);
      ASSERT_TRUE(scorer.ok()) << scorer.status();
      const auto own_scorer = alone->ScorerFor(alone->All());
      ASSERT_TRUE(own_scorer.ok()) << own_scorer.status();
      const std::string got = logits(**scorer, 0);
      EXPECT_EQ(got, logits(**own_scorer, 0));
      EXPECT_EQ(got, logits(**scorer, 7)) << "in pieces";
      different.insert(got);
    }
    // Else the comparisons would be empty.
    EXPECT_GT(different.size(), 8u);
    if (!lock.has_tuning()) return;
    const auto before = f.Load(BeforeTuning(lock));
    ASSERT_NE(before, nullptr);
    const auto untuned = before->ScorerFor(before->All());
    ASSERT_TRUE(untuned.ok()) << untuned.status();
    EXPECT_FALSE(different.contains(logits(**untuned, 0)));
  }

  static void Tune(const TinyFederation& f, v1::CompositionLock& lock,
                   LoadOptions& load) {
    static int count = 0;
    load.folder = f.Path(absl::StrCat("tuned", count++));
    ASSERT_TRUE(proto::MakeDirectories(load.folder).ok());
    const auto tuned =
        TuneComposition(lock, f.FolderOf(), TinyFederation::Documents(),
                        load.folder, {});
    ASSERT_TRUE(tuned.ok()) << tuned.status();
    lock = *tuned;
  }

  static std::map<std::string, std::unique_ptr<TinyFederation>>* federations_;
};
std::map<std::string, std::unique_ptr<TinyFederation>>*
    GuaranteeTest::federations_ = nullptr;

TEST_F(GuaranteeTest, HoldsForEveryMethodAndSubset) {
  for (const Method& method : Methods()) {
    // Vectors, not logits: tests/compose/retrieve/retriever_guarantee_test.cc.
    if (method.plan_pilots != nullptr) continue;
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
