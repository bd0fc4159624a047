// SPDX-License-Identifier: Apache-2.0
// Jobs that train a branch of the base: kinds dense, attention_ffn and sized,
// under the same consent and publish rules as an expert beside it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "compose/learn/corpus.h"
#include "compose/learn/hash.h"
#include "compose/learn/statistics.h"
#include "compose/learn/trainer.h"
#include "compose/measure/perplexity.h"
#include "compose/package/manifest_proxy.h"
#include "compose/package/manifest_branch.h"
#include "compose/package/manifest_training.h"
#include "node/job_store.h"
#include "node/plan_check.h"
#include "tests/node/daemon_fixture.h"

namespace motet::node {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kBranches[] =
    "[approve]\nmethods = [\"branch\"]\npublish = [\"all weights\", "
    "\"per-layer means and thresholds\"]\n[statistics]\nmin_documents = 4\n";

class KindsTest : public DaemonTest {
 protected:
  KindsTest() { WritePolicy(kBranches); }

  v1::TrainingPlan BranchPlan(const std::string& kind) {
    v1::TrainingPlan plan = Plan();
    plan.set_kind(kind);
    plan.set_method("branch");
    plan.set_anchored(true);
    plan.clear_publishes();
    for (const std::string& what : package::Leaves(plan)) {
      plan.add_publishes(what);
    }
    return plan;
  }
  void HoldOut(int documents) {
    ASSERT_TRUE(learn::WriteJsonl(settings_.Path("corpus/test.jsonl"),
                                  testing::SomeDocuments(documents, "sealed"))
                    .ok());
  }
  // What was published, checked as a stranger would.
  package::OpenedPackage Published() {
    auto opened =
        package::OpenPackage(PublishedFolder("code.example/code@1.0.0"),
                             federation_.authority.certificate_pem);
    EXPECT_TRUE(opened.ok()) << opened.status();
    base_package_ =
        *package::OpenPackage(base_, federation_.authority.certificate_pem);
    const absl::Status fits = package::CheckAgainstBase(*opened, base_package_);
    EXPECT_TRUE(fits.ok()) << fits;
    return *opened;
  }
  double HeldOutPerplexity(const package::LoadedModel& model) {
    auto base = package::LoadModel(base_);
    EXPECT_TRUE(base.ok());
    const learn::TokenWindows windows(
        *(*base)->tokenizer,
        *learn::ReadJsonl(settings_.Path("corpus/test.jsonl")),
        learn::SeparatorOf(*(*base)->tokenizer, model.config.eos_id), 16);
    auto decoder = learn::BaseDecoder(model);
    EXPECT_TRUE(decoder.ok());
    return measure::ScoreWindows(*decoder, windows)->Perplexity();
  }

  package::OpenedPackage base_package_;
};

TEST_F(KindsTest, DenseTrainsTheWholeBranchAndPublishesMeans) {
  HoldOut(10);
  v1::TrainingPlan plan = BranchPlan("dense");
  plan.set_steps(40);
  coordinator_->Offer(plan);
  Start();
  ASSERT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
  const package::OpenedPackage opened = Published();
  const v1::ExpertManifest& m = opened.manifest;
  EXPECT_EQ(m.kind(), "dense");
  EXPECT_EQ(m.training().method(), "branch");
  EXPECT_EQ(m.training().steps(), 40u);
  EXPECT_EQ(m.training().hyper_parameters().count("row_norm"), 0u);
  EXPECT_TRUE(m.frozen_sha256().empty());
  EXPECT_EQ(m.base_tensors_size(), 0);  // all of it was trained
  EXPECT_EQ(m.tensors_size(), base_package_.manifest.tensors_size());

  // Means of the base's run and of the branch's own: those of the first
  // layer's attention differ, as attention was trained too.
  ASSERT_EQ(m.domain().anchored().layers_size(), 2);
  EXPECT_EQ(m.domain().anchored().gates_size(), 18);
  EXPECT_GT(m.domain().anchored().layers(0).threshold(), 0);
  auto base = package::LoadModel(base_);
  ASSERT_TRUE(base.ok());
  auto branch = package::LoadBranch(opened, **base);
  ASSERT_TRUE(branch.ok()) << branch.status();
  const learn::TokenWindows own(
      *(*base)->tokenizer,
      *learn::ReadJsonl(settings_.Path("corpus/train.jsonl")),
      learn::SeparatorOf(*(*base)->tokenizer, (*base)->config.eos_id), 16);
  const auto mean = learn::MeanRouterInputs(*learn::BaseDecoder(**branch), own,
                                            plan.statistics_tokens());
  ASSERT_TRUE(mean.ok());
  for (int l = 0; l < 2; ++l) {
    double apart = 0;
    for (int c = 0; c < 16; ++c) {
      const v1::LayerStatistics& layer = m.domain().anchored().layers(l);
      EXPECT_NEAR(layer.pair_mean(c), (*mean)[l][c], 1e-5);
      apart += std::abs(layer.pair_mean(c) - layer.base_mean(c));
    }
    EXPECT_GT(apart, 1e-3) << l;
  }
  EXPECT_LT(HeldOutPerplexity(**branch), 0.9 * HeldOutPerplexity(**base));
}

TEST_F(KindsTest, WhatIsFrozenDoesNotTravel) {
  v1::TrainingPlan plan = BranchPlan("attention_ffn");
  plan.add_freeze("model.embed_tokens.*");
  plan.add_freeze("lm_head.*");
  plan.set_anchored(false);
  plan.clear_publishes();
  plan.add_publishes("all weights");
  coordinator_->Offer(plan);
  Start();
  ASSERT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
  const package::OpenedPackage opened = Published();
  EXPECT_EQ(opened.manifest.kind(), "attention_ffn");
  EXPECT_FALSE(opened.manifest.domain().has_anchored());
  EXPECT_EQ(opened.manifest.domain().tokens(), 0u);
  ASSERT_EQ(opened.manifest.base_tensors_size(), 2);
  EXPECT_EQ(opened.manifest.base_tensors(0).name(), "lm_head.weight");
  EXPECT_EQ(opened.manifest.base_tensors(1).name(),
            "model.embed_tokens.weight");
  auto base = package::LoadModel(base_);
  ASSERT_TRUE(base.ok());
  auto branch = package::LoadBranch(opened, **base);
  ASSERT_TRUE(branch.ok()) << branch.status();
  EXPECT_EQ((*branch)->weights.embed.data, (*base)->weights.embed.data);
}

// Beside a bf16 base the branch is trained in f32; what is frozen is still
// the base's, bit for bit, and does not travel.
TEST_F(KindsTest, BesideABaseInBf16) {
  base_ = testing::MakeBasePackage(
      federation_, testing::NewFolder("bf16") + "/package", /*bf16=*/true);
  registry_.Put("demo/base@1.0.0", base_);
  v1::TrainingPlan plan = BranchPlan("dense");
  *plan.mutable_base() = testing::ReferenceTo(base_);
  plan.add_freeze("*self_attn*");
  plan.set_second_moments(true);
  plan.set_fisher(true);
  WritePolicy(std::string(kBranches).replace(
      std::string(kBranches).find("\"all"), 0,
      "\"second moments of router inputs\", \"Fisher information\", "));
  coordinator_->Offer(plan);
  Start();
  ASSERT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
  const package::OpenedPackage opened = Published();
  EXPECT_EQ(opened.manifest.base_tensors_size(), 2 * 6);
  for (const v1::TensorDigest& t : opened.manifest.base_tensors()) {
    EXPECT_THAT(t.name(), HasSubstr("self_attn"));
    EXPECT_EQ(t.dtype(), t.shape_size() == 2 ? "BF16" : "F32");
  }
  for (const v1::TensorDigest& t : opened.manifest.tensors()) {
    EXPECT_EQ(t.dtype(), "F32") << t.name();
  }
  EXPECT_EQ(opened.manifest.domain().second_moments().min_documents(), 4u);
  // Of every tensor, frozen ones too: a merge needs them all.
  auto fisher = package::SafetensorsFile::Open(opened.folder +
                                               "/fisher.safetensors");
  ASSERT_TRUE(fisher.ok()) << fisher.status();
  EXPECT_EQ(static_cast<int>((*fisher)->entries().size()),
            base_package_.manifest.tensors_size());
  for (const auto& entry : (*fisher)->entries()) {
    const float* f = entry.tensor.f32();
    EXPECT_GT(std::accumulate(f, f + entry.tensor.size(), 0.0), 0)
        << entry.name;
  }
  auto base = package::LoadModel(base_);
  ASSERT_TRUE(base.ok()) << base.status();
  auto branch = package::LoadBranch(opened, **base);
  ASSERT_TRUE(branch.ok()) << branch.status();
  HoldOut(10);
  EXPECT_LT(HeldOutPerplexity(**branch), HeldOutPerplexity(**base));
}

// METHODS 1, step 6: a score of each public document of the base leaves, after
// the owner was asked.
TEST_F(KindsTest, ProxyScoresLeaveWithConsent) {
  v1::TrainingPlan plan = BranchPlan("dense");
  plan.set_proxy_scores(true);
  coordinator_->Offer(plan);
  Start();
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT)) << JobDetail();
  EXPECT_THAT(JobDetail(), HasSubstr("scores of public documents"));
  EXPECT_THAT(DescribePlan(plan, settings_, Policy()),
              HasSubstr("one score a public document leaves"));
  ASSERT_TRUE(LeaveDecision(settings_.dir, "plan-1", {}).ok());
  ASSERT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
  const package::OpenedPackage opened = Published();
  const auto proxy = package::SafetensorsFile::Open(
      absl::StrCat(opened.folder, "/", package::kProxyFile));
  ASSERT_TRUE(proxy.ok()) << proxy.status();
  const auto texts = learn::ReadJsonl(base_ + "/public.jsonl");
  ASSERT_TRUE(texts.ok());
  const math::Tensor ids = (*proxy)->Find("documents");
  ASSERT_EQ(ids.size(), static_cast<int64_t>(texts->size()));
  for (size_t i = 0; i < texts->size(); ++i) {
    EXPECT_EQ(static_cast<const int64_t*>(ids.data)[i],
              static_cast<int64_t>(learn::Fnv1a((*texts)[i])));
  }
  const auto& hyper = opened.manifest.training().hyper_parameters();
  EXPECT_GE(hyper.at("proxy_accuracy"), 0.5);
}

TEST_F(KindsTest, SizedIsPickedByTheProbe) {
  HoldOut(10);
  v1::TrainingPlan plan = BranchPlan("sized");
  plan.set_size("probe");
  plan.set_trunk("frozen");
  for (const uint32_t width : {24, 32, 40}) plan.add_ffn_widths(width);
  for (const uint64_t steps : {5, 7, 9}) plan.add_steps_choices(steps);
  plan.add_probe_thresholds(1.5);
  plan.add_probe_thresholds(100);  // a base that was never trained is worse
  coordinator_->Offer(plan);
  Start();
  // The plan does not list that the probe leaves: it is asked about.
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT)) << JobDetail();
  EXPECT_THAT(JobDetail(),
              HasSubstr("perplexity of the base on held-out text"));
  ASSERT_TRUE(LeaveDecision(settings_.dir, "plan-1", {}).ok());
  ASSERT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
  EXPECT_EQ(coordinator_->Last("plan-1").steps(), 9u);
  EXPECT_EQ(coordinator_->Last("plan-1").step(), 9u);
  const package::OpenedPackage opened = Published();
  const v1::ExpertManifest& m = opened.manifest;
  EXPECT_EQ(m.kind(), "sized");
  EXPECT_EQ(m.model().ffn_width(), 40u);
  EXPECT_EQ(m.training().steps(), 9u);
  const auto& hyper = m.training().hyper_parameters();
  EXPECT_EQ(hyper.at("ffn_width"), 40);
  EXPECT_EQ(hyper.at("schedule_steps"), 12);
  auto base = package::LoadModel(base_);
  ASSERT_TRUE(base.ok());
  EXPECT_NEAR(hyper.at("probe_perplexity"), HeldOutPerplexity(**base), 1e-6);
  // FFNs alone travel.
  ASSERT_EQ(m.tensors_size(), 6);
  for (const v1::TensorDigest& t : m.tensors()) {
    EXPECT_THAT(t.name(), HasSubstr(".mlp."));
  }
  auto branch = package::LoadBranch(opened, **base);
  ASSERT_TRUE(branch.ok()) << branch.status();
  EXPECT_EQ((*branch)->config.ffn_width, 40);
  EXPECT_TRUE(learn::BaseDecoder(**branch).ok());
}

// The manifest says it, and the row of an expert trained alone, which is a
// mean, carries it too.
TEST_F(KindsTest, NoiseIsTheOwnersPolicy) {
  const auto policy = [](double noise) {
    return absl::StrCat(testing::ApprovingPolicy(), "noise = ", noise, "\n");
  };
  std::vector<std::vector<float>> rows;
  for (const double noise : {0.0, 0.5}) {
    WritePolicy(policy(noise));
    v1::TrainingPlan plan = Plan(noise > 0 ? "with-noise" : "without");
    plan.set_alone(true);
    plan.set_public_fraction(0);
    plan.set_statistics_tokens(8192);  // the mean's text is then the row's
    plan.set_expert_version(noise > 0 ? "2.0.0" : "1.0.0");
    coordinator_->Offer(plan);
    if (daemon_ == nullptr) Start();
    ASSERT_TRUE(Told(v1::JOB_PUBLISHED, plan.id())) << JobDetail(plan.id());
    auto opened = package::OpenPackage(
        PublishedFolder("code.example/code@" + plan.expert_version()),
        federation_.authority.certificate_pem);
    ASSERT_TRUE(opened.ok()) << opened.status();
    const v1::AnchoredStatistics& s = opened->manifest.domain().anchored();
    EXPECT_EQ(s.noise(), noise);
    auto file = package::SafetensorsFile::Open(opened->folder +
                                               "/weights.safetensors");
    ASSERT_TRUE(file.ok()) << file.status();
    const math::Tensor row = (*file)->Find("layers.0.router.row");
    const auto& mean = s.layers(0).base_mean();
    double square = 0, product = 0;
    for (int c = 0; c < mean.size(); ++c) {
      square += double{mean[c]} * mean[c];
      product += double{mean[c]} * row.f32()[c];
    }
    EXPECT_NEAR(product, std::sqrt(square), 1e-3 * std::sqrt(square));
    rows.emplace_back(row.f32(), row.f32() + row.size());
  }
  EXPECT_NE(rows[0], rows[1]);

  // Approved by hand, a plan that would undo it fails all the same.
  v1::TrainingPlan plan = Plan("moments");
  plan.set_second_moments(true);
  coordinator_->Offer(plan);
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT, "moments"));
  EXPECT_THAT(JobDetail("moments"), HasSubstr("hold the means themselves"));
  ASSERT_TRUE(LeaveDecision(settings_.dir, "moments", {}).ok());
  ASSERT_TRUE(Told(v1::JOB_FAILED, "moments"));
  EXPECT_THAT(JobDetail("moments"), HasSubstr("noise = 0"));
}

TEST_F(KindsTest, TheProbeNeedsHeldOutText) {
  WritePolicy("");
  v1::TrainingPlan plan = BranchPlan("sized");
  plan.set_size("probe");
  plan.add_ffn_widths(24);
  plan.add_ffn_widths(40);
  plan.add_probe_thresholds(100);
  coordinator_->Offer(plan);
  Start();
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT)) << JobDetail();
  ASSERT_TRUE(LeaveDecision(settings_.dir, "plan-1", {}).ok());
  ASSERT_TRUE(Told(v1::JOB_FAILED));
  EXPECT_THAT(JobDetail(), HasSubstr("held-out tokens"));
}

// An owner who approved FlexOlmo runs has not approved this.
TEST_F(KindsTest, ABranchNeedsConsentOfItsOwn) {
  WritePolicy(testing::ApprovingPolicy());
  coordinator_->Offer(BranchPlan("dense"));
  Start();
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT));
  EXPECT_THAT(JobDetail(), HasSubstr("method branch is not among flexolmo"));
  EXPECT_THAT(JobDetail(), HasSubstr("all weights"));
}

TEST(KindsPlanTest, WhatLeavesFollowsFromTheKind) {
  v1::TrainingPlan plan = testing::SomePlan();
  EXPECT_THAT(WouldPublish(plan), Not(Contains("all weights")));
  plan.clear_publishes();
  plan.set_kind("dense");
  EXPECT_THAT(WouldPublish(plan), ::testing::ElementsAre("all weights"));
  plan.set_anchored(true);
  plan.set_second_moments(true);
  EXPECT_THAT(
      WouldPublish(plan),
      ::testing::ElementsAre("all weights", "per-layer means and thresholds",
                             "second moments of router inputs"));
  plan.set_kind("sized");
  plan.set_trunk("frozen");
  plan.set_size("probe");
  EXPECT_THAT(WouldPublish(plan), Contains("ffn weights"));
  EXPECT_THAT(WouldPublish(plan),
              Contains("perplexity of the base on held-out text"));
}

TEST(KindsPlanTest, TheProbesRule) {
  v1::TrainingPlan plan;
  plan.add_probe_thresholds(10);
  plan.add_probe_thresholds(30);
  EXPECT_EQ(package::ProbeChoice(plan, 9.99), 0);
  EXPECT_EQ(package::ProbeChoice(plan, 10), 1);
  EXPECT_EQ(package::ProbeChoice(plan, 29), 1);
  EXPECT_EQ(package::ProbeChoice(plan, 1e9), 2);
}

}  // namespace
}  // namespace motet::node
