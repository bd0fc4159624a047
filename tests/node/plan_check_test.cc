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

using ::testing::HasSubstr;
using ::testing::IsEmpty;
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
    {"steps_choices", [](auto& p) {
       Probed(p).add_steps_choices(3);
       p.add_steps_choices(p.steps() + 1);
     }},
    {"probe_thresholds",
     [](auto& p) { Probed(p).set_probe_thresholds(0, NAN); }},
    {"probe_thresholds", [](auto& p) {
       Probed(p).add_ffn_widths(64);
       p.add_probe_thresholds(20);
     }},
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
    {"steps", [](auto& p) {
       p.set_warmup_steps(0);
       p.set_steps(0);
     }},
    {"steps", [](auto& p) { p.set_steps(~uint64_t{0}); }},
    {"batch_sequences", [](auto& p) { p.set_batch_sequences(0); }},
    {"batch_sequences", [](auto& p) {
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
  EXPECT_THAT(DescribePlan(plan, settings),
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
  const std::string text = DescribePlan(plan, settings);
  for (const char* part : {"code.example/code@1.0.0", "ffn weights",
                           "router row and bias", "second moments",
                           "per-layer means and thresholds", "plan-1"}) {
    EXPECT_THAT(text, HasSubstr(part));
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
