// SPDX-License-Identifier: Apache-2.0
// Which plans run without asking.
#include "node/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_join.h"
#include "tests/node/support.h"

namespace motet::node {
namespace {

using ::testing::HasSubstr;
using testing::ApprovingPolicy;
using testing::SomePlan;

constexpr char kFrom[] = "spiffe://demo/coordinator/main";

struct Case {
  const char* name;
  const char* more;  // lines of [approve]
  std::function<void(v1::TrainingPlan&)> change;
  const char* reason;  // part of a reason; "" = approved
};

const Case kCases[] = {
    {"fits", "", [](auto&) {}, ""},
    {"other method", "", [](auto& p) { p.set_method("btx"); }, "method btx"},
    {"steps at the limit", "max_steps = 12", [](auto& p) { p.set_steps(12); },
     ""},
    {"steps above the limit", "max_steps = 12",
     [](auto& p) { p.set_steps(13); }, "exceed max_steps"},
    {"tokens above the limit", "max_tokens = 100", [](auto&) {},
     "exceed max_tokens"},
    {"tokens that overflow 64 bits", "max_tokens = 100",
     [](auto& p) {
       p.set_steps(uint64_t{1} << 62);
       p.set_sequence_tokens(1u << 31);
     },
     "exceed max_tokens"},
    {"too little public text", "min_public_fraction = 0.3",
     [](auto& p) { p.set_public_fraction(0.25); }, "min_public_fraction"},
    {"public text at the limit", "min_public_fraction = 0.25",
     [](auto& p) { p.set_public_fraction(0.25); }, ""},
    {"publishes more", "",
     [](auto& p) { p.add_publishes("second moments"); }, "second moments"},
    {"asks by silence", "", [](auto& p) { p.clear_publishes(); }, ""},
    {"sender listed",
     "only_from = [\"spiffe://demo/coordinator/main\"]", [](auto&) {}, ""},
    {"sender not listed",
     "only_from = [\"spiffe://demo/coordinator/other\"]", [](auto&) {},
     "it came from spiffe://demo/coordinator/main"},
    {"issuer not listed",
     "only_from = [\"spiffe://demo/coordinator/main\"]",
     [](auto& p) { p.set_issued_by("spiffe://demo/coordinator/evil"); },
     "issued by spiffe://demo/coordinator/evil"},
};

TEST(PolicyTest, DecidesEachCase) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    auto policy = ParsePolicy(
        std::string("[approve]\nmethods = [\"flexolmo\"]\n"
                    "publish = [\"ffn weights\", \"router row and bias\", "
                    "\"per-layer means and thresholds\"]\n") +
            c.more + "\n",
        "policy.toml");
    ASSERT_TRUE(policy.ok()) << policy.status();
    v1::TrainingPlan plan = SomePlan();
    c.change(plan);
    const Decision d = Decide(*policy, plan, kFrom);
    EXPECT_EQ(d.approved, std::string(c.reason).empty())
        << absl::StrJoin(d.reasons, "; ");
    EXPECT_THAT(absl::StrJoin(d.reasons, "; "), HasSubstr(c.reason));
  }
}

TEST(PolicyTest, WhatTheMethodPublishesMustBeListedEvenWhenThePlanIsSilent) {
  auto policy = ParsePolicy(
      "[approve]\nmethods = [\"flexolmo\"]\npublish = [\"ffn weights\"]\n",
      "policy.toml");
  ASSERT_TRUE(policy.ok()) << policy.status();
  v1::TrainingPlan plan = SomePlan();
  plan.clear_publishes();
  plan.add_publishes("ffn weights");
  const Decision d = Decide(*policy, plan, kFrom);
  EXPECT_FALSE(d.approved);
  EXPECT_EQ(d.reasons.size(), 2u) << absl::StrJoin(d.reasons, "; ");
}

TEST(PolicyTest, PilotsHaveAFloorAndNoise) {
  const auto policy = ParsePolicy("[pilots]\nmin_queries = 5\nnoise = 0.5\n",
                                  "policy.toml");
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->min_queries, 5);
  EXPECT_EQ(policy->pilot_noise, 0.5);
  EXPECT_EQ(ParsePolicy("", "policy.toml")->min_queries, 20);
  EXPECT_THAT(std::string(ParsePolicy("[pilots]\nmin_queries = 1\nnoise = "
                                      "-1\n",
                                      "policy.toml")
                              .status()
                              .message()),
              ::testing::AllOf(HasSubstr("pilots.min_queries"),
                               HasSubstr("the mean of one query"),
                               HasSubstr("pilots.noise")));
}

TEST(PolicyTest, TheTemplateParsesAndApprovesNothing) {
  auto policy = ParsePolicy(PolicyTemplate("demo"), "policy.toml");
  ASSERT_TRUE(policy.ok()) << policy.status();
  const Decision d = Decide(*policy, SomePlan(), kFrom);
  EXPECT_FALSE(d.approved);
  EXPECT_EQ(d.reasons.size(), 1u);
}

TEST(PolicyTest, TheTemplateWithItsCommentsTakenOffApproves) {
  std::string text = PolicyTemplate("demo"), out;
  // Uncomment every "# key =" line and the array's lines below [approve].
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    std::string line = text.substr(at, end - at);
    if (line.starts_with("# ") &&
        (line.find(" = ") != std::string::npos || line == "# ]" ||
         line.starts_with("#   \""))) {
      line = line.substr(2);
    }
    out += line + "\n";
    at = end + 1;
  }
  auto policy = ParsePolicy(out, "policy.toml");
  ASSERT_TRUE(policy.ok()) << policy.status() << out;
  v1::TrainingPlan plan = SomePlan();
  plan.set_public_fraction(0.5);
  const Decision d = Decide(*policy, plan, kFrom);
  EXPECT_TRUE(d.approved) << absl::StrJoin(d.reasons, "; ");
  EXPECT_EQ(policy->licence.not_after(), "2027-01-01");
}

TEST(PolicyTest, AMissingFileApprovesNothing) {
  auto policy = LoadPolicy(testing::NewFolder("no-policy"));
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_FALSE(Decide(*policy, SomePlan(), kFrom).approved);
}

TEST(PolicyTest, EveryProblemIsToldAtOnce) {
  auto policy = ParsePolicy(
      "[approve]\nmetods = [\"flexolmo\"]\nmax_steps = \"many\"\n"
      "only_from = [\"bob\"]\nmin_public_fraction = 2\n"
      "[licence]\nnot_after = \"soon\"\nspdx = \"\"\n[licnce]\nspdx = \"X\"\n",
      "policy.toml");
  ASSERT_FALSE(policy.ok());
  const std::string message(policy.status().message());
  for (const char* part :
       {"[policy.toml]", "unknown key approve.metods", "line 2",
        "approve.max_steps is not an integer", "\"bob\"",
        "min_public_fraction is 2", "\"soon\"", "licence.spdx is empty",
        "unknown key licnce", "the keys are"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
}

// Second moments hold the means: noise on these alone would hide nothing.
TEST(PolicyTest, NoiseAndSecondMomentsDoNotGoTogether) {
  const std::string approve =
      "[approve]\nmethods = [\"flexolmo\"]\npublish = [\"ffn weights\", "
      "\"router row and bias\", \"per-layer means and thresholds\", \"second "
      "moments of router inputs\"]\n[statistics]\nnoise = ";
  v1::TrainingPlan plan = SomePlan();
  auto policy = ParsePolicy(approve + "0.25\n", "policy.toml");
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->noise, 0.25);
  EXPECT_TRUE(Decide(*policy, plan, kFrom).approved);
  plan.set_second_moments(true);
  const Decision d = Decide(*policy, plan, kFrom);
  EXPECT_FALSE(d.approved);
  EXPECT_THAT(absl::StrJoin(d.reasons, "; "),
              HasSubstr("second moments hold the means themselves"));
  policy = ParsePolicy(approve + "0\n", "policy.toml");
  EXPECT_TRUE(Decide(*policy, plan, kFrom).approved);
  policy = ParsePolicy(approve + "-1\n", "policy.toml");
  ASSERT_FALSE(policy.ok());
  EXPECT_THAT(std::string(policy.status().message()),
              HasSubstr("statistics.noise is -1"));
}

TEST(PolicyTest, LicenceTermsAreRead) {
  auto policy = ParsePolicy(
      "[licence]\nspdx = \"CC-BY-4.0\"\nforbidden_purposes = "
      "[\"advertising\"]\nallowed_tenants = [\"a\", \"b\"]\nattribution = "
      "\"Thanks\"\nnot_before = \"2026-01-01T00:00:00Z\"\n",
      "policy.toml");
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->licence.spdx(), "CC-BY-4.0");
  ASSERT_EQ(policy->licence.forbidden_purposes_size(), 1);
  EXPECT_EQ(policy->licence.forbidden_purposes(0), "advertising");
  EXPECT_EQ(policy->licence.allowed_tenants_size(), 2);
  EXPECT_EQ(policy->licence.attribution(), "Thanks");
}

}  // namespace
}  // namespace motet::node
