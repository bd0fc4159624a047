// SPDX-License-Identifier: Apache-2.0
// Plans come from outside: nonsense in any field is told, all of it at once.
#include "node/plan_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "absl/strings/str_join.h"
#include "tests/node/support.h"

namespace motet::node {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using testing::SomePlan;

std::vector<std::string> Check(const v1::TrainingPlan& plan) {
  return CheckPlan(plan, "demo", "code.example");
}

v1::TrainingPlan Good() {
  v1::TrainingPlan plan = SomePlan();
  for (std::string* hex : {plan.mutable_base()->mutable_manifest_sha256(),
                           plan.mutable_base()->mutable_weights_sha256(),
                           plan.mutable_base()->mutable_tokenizer_sha256()}) {
    *hex = std::string(64, 'a');
  }
  return plan;
}

v1::TrainingPlan& Sized(v1::TrainingPlan& plan) {
  plan.set_kind("sized");
  plan.set_method("branch");
  return plan;
}
v1::TrainingPlan& Probed(v1::TrainingPlan& plan) {
  Sized(plan).set_size("probe");
  plan.add_ffn_widths(24);
  plan.add_ffn_widths(48);
  plan.add_probe_thresholds(20);
  return plan;
}

struct Nonsense {
  const char* field;
  std::function<void(v1::TrainingPlan&)> change;
};

const Nonsense kNonsense[] = {
    {"id", [](auto& p) { p.set_id("../../etc"); }},
    {"id", [](auto& p) { p.set_id(""); }},
    {"id", [](auto& p) { p.set_id(std::string(65, 'a')); }},
    {"method", [](auto& p) { p.set_method("rm -rf"); }},
    {"method", [](auto& p) { p.set_kind("dense"); }},
    {"kind", [](auto& p) { p.set_kind("rm -rf"); }},
    {"fisher", [](auto& p) { p.set_fisher(true); }},
    {"anchored", [](auto& p) { p.set_kind("ffn"); }},
    {"ffn_width", [](auto& p) { p.set_ffn_width(48); }},
    {"trunk", [](auto& p) { p.set_trunk("frozen"); }},
    {"steps_choices", [](auto& p) { p.add_steps_choices(4); }},
    {"trunk", [](auto& p) { Sized(p).set_trunk("melted"); }},
    {"ffn_width", [](auto& p) { Sized(p).set_ffn_width(~0u); }},
    {"size", [](auto& p) { Sized(p).add_ffn_widths(48); }},
    {"size", [](auto& p) { Probed(p).set_size("guess"); }},
    {"size", [](auto& p) { Sized(p).set_size("probe"); }},
    {"ffn_width", [](auto& p) { Probed(p).set_ffn_width(48); }},
    {"ffn_widths", [](auto& p) { Probed(p).set_ffn_widths(0, 0); }},
    {"ffn_widths", [](auto& p) { Probed(p).add_ffn_widths(64); }},
    {"steps_choices", [](auto& p) { Probed(p).add_steps_choices(3); }},
    {"steps_choices",
     [](auto& p) {
       Probed(p).add_steps_choices(3);
       p.add_steps_choices(p.steps() + 1);
     }},
    {"probe_thresholds",
     [](auto& p) { Probed(p).set_probe_thresholds(0, NAN); }},
    {"probe_thresholds",
     [](auto& p) {
       Probed(p).add_ffn_widths(64);
       p.add_probe_thresholds(20);
     }},
    {"row_init", [](auto& p) { p.set_row_init("random"); }},
    {"row_init", [](auto& p) { Sized(p).set_row_init("embedder"); }},
    {"row_init",
     [](auto& p) {
       p.set_alone(true);
       p.set_row_init("embedder");
     }},
    {"embedder_sha256",
     [](auto& p) { p.set_embedder_sha256(std::string(64, 'a')); }},
    {"embedder_sha256",
     [](auto& p) {
       p.set_row_init("embedder");
       p.set_embedder_sha256("a");
     }},
    {"embedder_seed", [](auto& p) { p.set_embedder_seed(2); }},
    {"expert_name", [](auto& p) { p.set_expert_name("a/b"); }},
    {"expert_version", [](auto& p) { p.set_expert_version("1.0"); }},
    {"expert_version", [](auto& p) { p.set_expert_version("1..0"); }},
    {"base.manifest_sha256",
     [](auto& p) { p.mutable_base()->set_manifest_sha256("xyz"); }},
    {"base.weights_sha256",
     [](auto& p) { p.mutable_base()->clear_weights_sha256(); }},
    {"base.tokenizer_sha256",
     [](auto& p) {
       p.mutable_base()->set_tokenizer_sha256("../" + std::string(61, 'a'));
     }},
    {"steps",
     [](auto& p) {
       p.set_warmup_steps(0);
       p.set_steps(0);
     }},
    {"steps", [](auto& p) { p.set_steps(~uint64_t{0}); }},
    {"batch_sequences", [](auto& p) { p.set_batch_sequences(0); }},
    {"batch_sequences",
     [](auto& p) {
       p.set_sequence_tokens(2);
       p.set_batch_sequences(1 << 20);
     }},
    {"sequence_tokens", [](auto& p) { p.set_sequence_tokens(1); }},
    {"learning_rate", [](auto& p) { p.set_learning_rate(0); }},
    {"learning_rate", [](auto& p) { p.set_learning_rate(NAN); }},
    {"learning_rate", [](auto& p) { p.set_learning_rate(INFINITY); }},
    {"warmup_steps", [](auto& p) { p.set_warmup_steps(p.steps() + 1); }},
    {"final_lr_fraction", [](auto& p) { p.set_final_lr_fraction(1.5); }},
    {"clip_norm", [](auto& p) { p.set_clip_norm(-1); }},
    {"weight_decay", [](auto& p) { p.set_weight_decay(-0.1); }},
    {"router_z_weight", [](auto& p) { p.set_router_z_weight(NAN); }},
    {"lm_z_weight", [](auto& p) { p.set_lm_z_weight(2); }},
    {"schedule", [](auto& p) { p.set_schedule("stairs"); }},
    {"arithmetic", [](auto& p) { p.set_arithmetic("int8"); }},
    {"decay_fraction", [](auto& p) { p.set_decay_fraction(2); }},
    {"accumulation",
     [](auto& p) { p.set_accumulation(p.batch_sequences() + 1); }},
    {"patience", [](auto& p) { p.set_patience(1); }},
    {"spike_sigma", [](auto& p) { p.set_spike_sigma(-1); }},
    {"freeze", [](auto& p) { p.add_freeze(std::string(201, 'x')); }},
    {"public_fraction", [](auto& p) { p.set_public_fraction(1); }},
    {"checkpoint_every", [](auto& p) { p.set_checkpoint_every(1ull << 60); }},
    {"gate_quantile", [](auto& p) { p.set_gate_quantile(0.1); }},
    {"smoothing", [](auto& p) { p.set_smoothing(1); }},
    {"statistics_tokens", [](auto& p) { p.set_statistics_tokens(0); }},
    {"publishes", [](auto& p) { p.clear_publishes(); }},
    {"publishes", [](auto& p) { p.add_publishes(std::string(300, 'x')); }},
    {"issued_by", [](auto& p) { p.set_issued_by("bob"); }},
    {"issued_by",
     [](auto& p) { p.set_issued_by("spiffe://other/coordinator/main"); }},
    {"issued_by",
     [](auto& p) {
       p.set_issued_by("spiffe://demo/owner/legal.example/node/n");
     }},
    {"owners", [](auto& p) { p.add_owners("legal.example"); }},
    {"batch_sequences * sequence_tokens",
     [](auto& p) {
       p.set_batch_sequences(4096);
       p.set_sequence_tokens(131072);
     }},
};

TEST(PlanCheckTest, AGoodPlanHasNoProblem) {
  EXPECT_THAT(Check(Good()), IsEmpty());
  v1::TrainingPlan plan = Good();
  plan.add_owners("code.example");
  plan.set_checkpoint_every(0);
  EXPECT_THAT(Check(plan), IsEmpty());
  Probed(plan).set_trunk("frozen");
  EXPECT_THAT(Check(plan), IsEmpty());
  plan.add_steps_choices(4);
  plan.add_steps_choices(12);
  EXPECT_THAT(Check(plan), IsEmpty());
  Settings settings;
  EXPECT_THAT(DescribePlan(plan, settings, Policy()),
              HasSubstr("FFNs alone, the rest stays the base's; FFN width 24, "
                        "48; steps 4, 12; chosen by the base's perplexity on "
                        "your held-out text, at 20"));
}

TEST(PlanCheckTest, EachNonsenseIsOneProblemThatNamesItsField) {
  for (const Nonsense& n : kNonsense) {
    SCOPED_TRACE(n.field);
    v1::TrainingPlan plan = Good();
    n.change(plan);
    const auto problems = Check(plan);
    ASSERT_THAT(problems, SizeIs(1)) << absl::StrJoin(problems, "\n");
    EXPECT_TRUE(problems[0].starts_with(std::string(n.field) + " is "))
        << problems[0];
    EXPECT_THAT(problems[0], HasSubstr(", want "));
  }
}

TEST(PlanCheckTest, AllProblemsAtOnce) {
  const auto problems = Check(v1::TrainingPlan());
  EXPECT_GE(problems.size(), 12u) << absl::StrJoin(problems, "\n");
}

TEST(PlanCheckTest, DescriptionSaysWhatLeaves) {
  Settings settings;
  settings.owner = "code.example";
  settings.domain = "code";
  v1::TrainingPlan plan = Good();
  plan.clear_expert_name();
  plan.add_publishes("second moments");
  const std::string text = DescribePlan(plan, settings, Policy());
  for (const char* part : {"code.example/code@1.0.0", "ffn weights",
                           "router row and bias", "second moments",
                           "per-layer means and thresholds", "plan-1"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

v1::TrainingPlan Retrieval(const std::string& kind) {
  v1::TrainingPlan p;
  const v1::TrainingPlan good = Good();
  p.set_id("plan-1");
  p.set_kind(kind);
  p.set_method("router_retriever");
  p.set_expert_version("1.0.0");
  p.set_issued_by(good.issued_by());
  *p.mutable_base() = good.base();
  if (kind == "embedding_adapter") {
    p.set_steps(30);
    p.set_batch_sequences(16);
    p.set_learning_rate(1e-4);
    p.set_warmup_steps(3);
    p.set_clip_norm(1);
    p.set_adapter_rank(8);
    p.set_adapter_alpha(32);
    p.set_adapter_dropout(0.1);
    p.set_temperature(0.05);
    p.add_publishes("adapter weights");
  } else {
    for (const char* id : {"code.example/code@1.0.0", "law.example/l@1.0.0"}) {
      v1::ScoredExpert* e = p.add_scored();
      e->set_id(id);
      e->set_manifest_sha256(std::string(64, 'a'));
      e->set_weights_sha256(std::string(64, 'b'));
    }
    p.add_publishes("mean vectors of groups of queries, with counts and reach");
  }
  return p;
}

const Nonsense kAdapterNonsense[] = {
    {"steps", [](auto& p) { p.set_steps(0); p.set_warmup_steps(0); }},
    {"adapter_rank", [](auto& p) { p.set_adapter_rank(0); }},
    {"adapter_alpha", [](auto& p) { p.set_adapter_alpha(std::nan("")); }},
    {"adapter_dropout", [](auto& p) { p.set_adapter_dropout(1); }},
    {"temperature", [](auto& p) { p.set_temperature(0); }},
    {"hard_negatives", [](auto& p) { p.set_hard_negatives(65); }},
    {"max_queries", [](auto& p) { p.set_max_queries(2000000000); }},
    {"method", [](auto& p) { p.set_method("flexolmo"); }},
    {"scored", [](auto& p) { p.add_scored(); }},
    {"pilots_of", [](auto& p) { p.set_pilots_of("code"); }},
    {"second_moments", [](auto& p) { p.set_second_moments(true); }},
    {"public_fraction", [](auto& p) { p.set_public_fraction(0.5); }},
    {"fisher", [](auto& p) { p.set_fisher(true); }},
    {"ffn_width", [](auto& p) { p.set_ffn_width(8); }},
};
const Nonsense kPilotNonsense[] = {
    {"scored", [](auto& p) { p.mutable_scored(1)->set_id("law"); }},
    {"scored", [](auto& p) { p.mutable_scored(1)->set_weights_sha256("a"); }},
    {"scored", [](auto& p) { *p.add_scored() = p.scored(1); }},
    {"scored", [](auto& p) { p.mutable_scored()->DeleteSubrange(0, 1); }},
    {"scored", [](auto& p) { p.set_pilots_of("other"); }},
    {"scored",
     [](auto& p) {
       *p.add_scored() = p.scored(0);
       p.mutable_scored(2)->set_id("code.example/more@1.0.0");
     }},
    {"temperature", [](auto& p) { p.set_temperature(1); }},
};

TEST(PlanCheckTest, RetrievalsNonsenseIsOneProblemEach) {
  EXPECT_THAT(Check(Retrieval("embedding_adapter")), IsEmpty());
  EXPECT_THAT(Check(Retrieval("pilots")), IsEmpty());
  const auto each = [](const std::string& kind, const auto& list) {
    for (const Nonsense& n : list) {
      SCOPED_TRACE(kind + " " + n.field);
      v1::TrainingPlan plan = Retrieval(kind);
      n.change(plan);
      const auto problems = Check(plan);
      ASSERT_THAT(problems, SizeIs(1)) << absl::StrJoin(problems, "\n");
      EXPECT_TRUE(problems[0].starts_with(std::string(n.field) + " is "))
          << problems[0];
    }
  };
  each("embedding_adapter", kAdapterNonsense);
  each("pilots", kPilotNonsense);
  v1::TrainingPlan plan = Good();
  plan.set_adapter_rank(8);
  EXPECT_THAT(Check(plan), SizeIs(1));
}

TEST(PlanCheckTest, ConsentSaysWhatOfQueriesLeaves) {
  Settings settings;
  settings.owner = "code.example";
  settings.domain = "code";
  Policy policy;
  policy.min_queries = 25;
  EXPECT_THAT(
      DescribePlan(Retrieval("embedding_adapter"), settings, policy),
      AllOf(HasSubstr("code.example/code@1.0.0"), HasSubstr("rank 8"),
            HasSubstr("no query, no document and no vector of one"),
            HasSubstr("adapter weights")));
  v1::TrainingPlan plan = Retrieval("pilots");
  EXPECT_EQ(PackageId(plan, settings), "code.example/pilots-code@1.0.0");
  EXPECT_THAT(DescribePlan(plan, settings, policy),
              AllOf(HasSubstr("at most 2 mean vectors"),
                    HasSubstr("and its reach, the cosine to the mean"),
                    HasSubstr("law.example/l@1.0.0"),
                    HasSubstr("25 queries at least, without noise")));
  policy.pilot_noise = 0.01;
  EXPECT_THAT(DescribePlan(plan, settings, policy),
              HasSubstr("with noise of standard deviation 0.01"));
  // Several of the owner's: the plan says which.
  *plan.add_scored() = plan.scored(0);
  plan.mutable_scored(2)->set_id("code.example/more@2.0.0");
  plan.set_pilots_of("more");
  EXPECT_EQ(PackageId(plan, settings), "code.example/pilots-more@1.0.0");
}

// Noise that is not known is not said to be none.
TEST(PlanCheckTest, APolicyThatCannotBeReadIsSaid) {
  for (const v1::TrainingPlan& plan :
       {Good(), Retrieval("pilots"), Retrieval("embedding_adapter")}) {
    const std::string text = DescribePlan(
        plan, Settings(), absl::InvalidArgumentError("[policy.toml:3] bad"));
    EXPECT_THAT(text, AllOf(HasSubstr("policy.toml could not be read"),
                            HasSubstr("[policy.toml:3] bad"),
                            Not(HasSubstr("without noise"))));
  }
}

TEST(PlanCheckTest, JsonIsTheSameForTheSamePlan) {
  EXPECT_EQ(PlanJson(Good()), PlanJson(Good()));
  v1::TrainingPlan other = Good();
  other.set_seed(99);
  EXPECT_NE(PlanJson(Good()), PlanJson(other));
}

}  // namespace
}  // namespace motet::node
