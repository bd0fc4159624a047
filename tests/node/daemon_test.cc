// SPDX-License-Identifier: Apache-2.0
// A node over a real mutual-TLS stream to a coordinator that records all it
// hears, and a registry that is a map: plans, consent, training, publishing,
// and what happens when each is interrupted.
#include "node/daemon.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <unordered_set>

#include "compose/learn/corpus.h"
#include "compose/package/package_folder.h"
#include "node/job_files.h"
#include "node/plan_check.h"
#include "proto/digest.h"
#include "proto/files.h"
#include "tests/node/daemon_fixture.h"
#include "tests/node/support.h"

namespace motet::node {
namespace {

using ::testing::HasSubstr;
using testing::FakeCoordinator;
using testing::NewFolder;
using testing::ReadAll;
using testing::TestFederation;
using testing::WaitFor;

TEST_F(DaemonTest, ApprovedByPolicyTrainsAndPublishes) {
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
  const v1::JobUpdate last = coordinator_->Last("plan-1");
  EXPECT_EQ(last.package_id(), "code.example/code@1.0.0");
  EXPECT_EQ(last.steps(), 12u);
  EXPECT_EQ(last.step(), 12u);
  EXPECT_GT(last.peak_rss_mib(), 1);
  EXPECT_GT(last.seconds(), 0);

  const std::string folder = PublishedFolder("code.example/code@1.0.0");
  auto opened =
      package::OpenPackage(folder, federation_.authority.certificate_pem);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->manifest_sha256, last.manifest_sha256());
  auto base =
      package::OpenPackage(base_, federation_.authority.certificate_pem);
  ASSERT_TRUE(base.ok()) << base.status();
  const absl::Status fits = package::CheckAgainstBase(*opened, *base);
  EXPECT_TRUE(fits.ok()) << fits;
  const v1::ExpertManifest& m = opened->manifest;
  EXPECT_EQ(opened->signer, settings_.Id().ToString());
  EXPECT_EQ(m.kind(), "ffn");
  EXPECT_EQ(m.domain().domain(), "code");
  EXPECT_EQ(m.domain().documents(), 40u);
  EXPECT_EQ(m.licence().forbidden_purposes(0), "advertising");
  EXPECT_EQ(m.training().steps(), 12u);
  EXPECT_EQ(m.training().plan_sha256(),
            proto::Hex(proto::Sha256(
                ReadAll(settings_.Path("jobs/plan-1/plan.json")))));
  EXPECT_FALSE(m.training().device().empty());
  EXPECT_EQ(m.training().hyper_parameters().at("learning_rate"), 3e-3);
  EXPECT_GT(m.training().loss_curve_size(), 0);
  ASSERT_EQ(m.domain().anchored().layers_size(), 2);
  EXPECT_EQ(m.domain().anchored().layers(1).pair_mean_size(), 16);
  // The plan's smoothing, none, and the prefix's mean, at three quantiles.
  // Of the full metric and, the base being 16 wide, of rank 8.
  ASSERT_EQ(m.domain().anchored().gates_size(), 18);
  for (int g = 0; g < 9; ++g) {
    EXPECT_EQ(m.domain().anchored().gates(g).rank(), 0u);
    EXPECT_EQ(m.domain().anchored().gates(g + 9).rank(), 8u);
    EXPECT_LE(m.domain().anchored().gates(g + 9).thresholds(1),
              m.domain().anchored().gates(g).thresholds(1));
  }
  EXPECT_EQ(m.domain().anchored().gates(4).smoothing(), 0);
  EXPECT_TRUE(m.domain().anchored().gates(8).prefix_mean());
  EXPECT_LE(m.domain().anchored().gates(6).thresholds(1),
            m.domain().anchored().gates(8).thresholds(1));
  EXPECT_EQ(opened->weights->Find("layers.1.mlp.down_proj.weight").shape,
            (math::Shape{16, 32}));
  EXPECT_EQ(opened->weights->Find("layers.0.router.row").shape,
            (math::Shape{16}));
  // Training did something.
  EXPECT_NE(0, std::memcmp(
                   opened->weights->Find("layers.0.mlp.gate_proj.weight").data,
                   base->weights
                       ->Find("model.layers.0.mlp.gate_proj.weight")
                       .data,
                   16 * 32 * 4));
}

// A plan that asks for second moments: they are a file of the package, the
// manifest says so, and they are sums that the published means agree with.
TEST_F(DaemonTest, SecondMomentsWhereThePlanAsks) {
  v1::TrainingPlan plan = Plan();
  plan.set_second_moments(true);
  // The plan does not list them, and yet they are asked about.
  coordinator_->Offer(plan);
  Start();
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT));
  EXPECT_THAT(JobDetail(), HasSubstr("second moments of router inputs"));
  ASSERT_TRUE(LeaveDecision(settings_.dir, "plan-1", {}).ok());
  ASSERT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
  const std::string folder = PublishedFolder("code.example/code@1.0.0");
  auto opened =
      package::OpenPackage(folder, federation_.authority.certificate_pem);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const v1::DomainDescriptor& domain = opened->manifest.domain();
  ASSERT_TRUE(domain.has_second_moments());
  EXPECT_EQ(domain.second_moments().documents(), 40u);
  EXPECT_EQ(domain.second_moments().tokens(), domain.tokens());
  auto file = package::SafetensorsFile::Open(folder +
                                             "/statistics.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  for (int l = 0; l < 2; ++l) {
    const std::string layer = "layers." + std::to_string(l);
    const math::Tensor products = (*file)->Find(layer + ".products");
    const math::Tensor sum = (*file)->Find(layer + ".sum");
    ASSERT_EQ(products.shape, (math::Shape{16 * 17 / 2}));
    ASSERT_EQ(sum.shape, (math::Shape{16}));
    const auto* b = static_cast<const double*>(sum.data);
    const auto* a = static_cast<const double*>(products.data);
    const double tokens = static_cast<double>(domain.tokens());
    for (int c = 0, at = 0; c < 16; ++c, at += c + 1) {
      const double mean = domain.anchored().layers(l).base_mean(c);
      EXPECT_NEAR(b[c] / tokens, mean, 1e-4);
      EXPECT_GE(a[at] / tokens, mean * mean - 1e-6);  // the diagonal
    }
  }
}

// Without coordination: what leaves says so, and its row is its mean.
TEST_F(DaemonTest, ExpertTrainedAlone) {
  v1::TrainingPlan plan = Plan();
  plan.set_alone(true);
  plan.set_public_fraction(0);
  plan.set_statistics_tokens(8192);  // the mean's text is then the row's
  coordinator_->Offer(plan);
  Start();
  ASSERT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
  const std::string folder = PublishedFolder("code.example/code@1.0.0");
  auto opened =
      package::OpenPackage(folder, federation_.authority.certificate_pem);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const v1::ExpertManifest& m = opened->manifest;
  EXPECT_EQ(m.router_row().source(), "domain_mean");
  EXPECT_EQ(m.training().hyper_parameters().at("coordination"), 0);
  auto file = package::SafetensorsFile::Open(folder + "/weights.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  const math::Tensor row = (*file)->Find("layers.1.router.row");
  const auto& mean = m.domain().anchored().layers(1).base_mean();
  double dot = 0, length = 0;
  for (int c = 0; c < 16; ++c) {
    dot += double{row.f32()[c]} * mean[c];
    length += double{mean[c]} * mean[c];
  }
  EXPECT_NEAR(dot, std::sqrt(length), 1e-3 * std::sqrt(length));
}

// Samples never leave: nothing of 20 bytes or more of the corpus occurs in
// any message to the coordinator or in any text of the package, failures
// included.
TEST_F(DaemonTest, NoTextOfTheCorpusIsInAnyMessage) {
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
  // A second job fails on a line that is no JSON.
  {
    std::ofstream out(settings_.Path("corpus/train.jsonl"), std::ios::app);
    out << "{\"text\": \"the hidden diagnosis of patient zero\n";
  }
  coordinator_->Offer(Plan("plan-2"));
  ASSERT_TRUE(Told(v1::JOB_FAILED, "plan-2"));

  constexpr size_t kBytes = 20;
  std::unordered_set<std::string> pieces;
  for (const std::string& document :
       {ReadAll(settings_.Path("corpus/train.jsonl")),
        std::string("the hidden diagnosis of patient zero")}) {
    for (size_t i = 0; i + kBytes <= document.size(); ++i) {
      pieces.insert(document.substr(i, kBytes));
    }
  }
  const std::string folder = PublishedFolder("code.example/code@1.0.0");
  std::vector<std::string> said;
  for (const v1::NodeMessage& message : coordinator_->messages()) {
    said.push_back(message.SerializeAsString());
  }
  EXPECT_GE(said.size(), 4u);
  for (const char* file :
       {"manifest.json", "README.md", "model.sig", "weights.safetensors"}) {
    said.push_back(ReadAll(folder + "/" + file));
  }
  for (const std::string& bytes : said) {
    for (size_t i = 0; i + kBytes <= bytes.size(); ++i) {
      ASSERT_FALSE(pieces.contains(bytes.substr(i, kBytes)))
          << bytes.substr(i, kBytes);
    }
  }
  // Nor where the text lies.
  for (const std::string& bytes : said) {
    EXPECT_EQ(bytes.find(settings_.dir), std::string::npos);
  }
}

TEST_F(DaemonTest, NothingRunsBeforeConsent) {
  WritePolicy("");
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT));
  EXPECT_FALSE(proto::Exists(settings_.Path("base")));
  Stop();
  // Not after a restart either.
  Start();
  ASSERT_TRUE(WaitState(v1::JOB_AWAITING_CONSENT));
  ASSERT_TRUE(WaitFor([&] { return coordinator_->connections() == 2; }));
  EXPECT_FALSE(proto::Exists(settings_.Path("base")));
  // The owner approves while the daemon runs.
  ASSERT_TRUE(LeaveDecision(settings_.dir, "plan-1", {}).ok());
  ASSERT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
  const auto job = ReadJob(settings_.dir, "plan-1");
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->decided_by, "owner");
}

TEST_F(DaemonTest, ApprovalWithoutADaemonCountsAtItsNextStart) {
  WritePolicy("");
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT));
  Stop();
  ASSERT_TRUE(LeaveDecision(settings_.dir, "plan-1", {}).ok());
  Start();
  EXPECT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
}

TEST_F(DaemonTest, RefusedWithAReason) {
  WritePolicy("");
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT));
  ASSERT_TRUE(LeaveDecision(settings_.dir, "plan-1",
                            {.kind = OwnerDecision::Kind::kRefuse,
                             .reason = "not this year",
                             .stamp = ""})
                  .ok());
  ASSERT_TRUE(Told(v1::JOB_REFUSED));
  EXPECT_THAT(coordinator_->Last("plan-1").detail(),
              HasSubstr("not this year"));
  // Finished: it takes no further decision, but can be forgotten.
  EXPECT_EQ(LeaveDecision(settings_.dir, "plan-1", {}).code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(ForgetJob(settings_.dir, "plan-1").ok());
  ASSERT_TRUE(WaitFor([&] { return daemon_->jobs().List().empty(); }));
  // Offered again at the next connection, it is not taken.
  const int before = coordinator_->connections();
  coordinator_->DropStreams();
  ASSERT_TRUE(WaitFor([&] {
    return coordinator_->connections() > before &&
           coordinator_->Last("plan-1").detail().find("forgotten") !=
               std::string::npos;
  }));
  EXPECT_TRUE(daemon_->jobs().List().empty());
}

TEST_F(DaemonTest, ANonsensePlanIsRefusedWithAllReasons) {
  v1::TrainingPlan plan = Plan();
  plan.set_learning_rate(-1);
  plan.set_steps(0);
  plan.set_warmup_steps(0);
  coordinator_->Offer(plan);
  Start();
  ASSERT_TRUE(Told(v1::JOB_REFUSED));
  EXPECT_THAT(coordinator_->Last("plan-1").detail(), HasSubstr("steps is 0"));
  EXPECT_THAT(coordinator_->Last("plan-1").detail(),
              HasSubstr("learning_rate is -1"));
  // One whose id is no id cannot be stored; it is answered.
  v1::TrainingPlan worse = Plan("../evil");
  coordinator_->Offer(worse);
  EXPECT_TRUE(Told(v1::JOB_REFUSED, "../evil"));
}

TEST_F(DaemonTest, APlanNeverChanges) {
  WritePolicy("");
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT));
  v1::TrainingPlan other = Plan();
  other.set_steps(100);
  coordinator_->Offer(other);
  coordinator_->Offer(Plan("plan-2"));
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT, "plan-2"));
  EXPECT_EQ(daemon_->jobs().Get("plan-1")->plan.steps(), 12u);
}

TEST_F(DaemonTest, CancelledWhileWaitingAndWhileTraining) {
  WritePolicy("");
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT));
  coordinator_->Cancel("plan-1");
  ASSERT_TRUE(Told(v1::JOB_CANCELLED));

  WritePolicy(testing::ApprovingPolicy());
  v1::TrainingPlan longer = Plan("plan-2");
  longer.set_steps(1000000);
  longer.set_expert_version("2.0.0");
  coordinator_->Offer(longer);
  ASSERT_TRUE(WaitFor([&] {
    const auto job = daemon_->jobs().Get("plan-2");
    return job.ok() && job->step > 2;
  }));
  coordinator_->Cancel("plan-2");
  ASSERT_TRUE(Told(v1::JOB_CANCELLED, "plan-2"));
  // And the worker is free for the next.
  v1::TrainingPlan next = Plan("plan-3");
  coordinator_->Offer(next);
  EXPECT_TRUE(Told(v1::JOB_PUBLISHED, "plan-3")) << JobDetail("plan-3");
}

TEST_F(DaemonTest, RefusesATamperedBase) {
  // The copy in the registry has one byte of its weights changed.
  const std::string bad = NewFolder("bad") + "/package";
  std::filesystem::copy(base_, bad,
                        std::filesystem::copy_options::recursive);
  std::string weights = ReadAll(bad + "/weights.safetensors");
  weights[weights.size() / 2] ^= 1;
  std::ofstream(bad + "/weights.safetensors", std::ios::binary) << weights;
  registry_.Put("demo/base@1.0.0", bad);
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(Told(v1::JOB_FAILED));
  EXPECT_THAT(coordinator_->Last("plan-1").detail(),
              HasSubstr("weights.safetensors"));
  // Nothing of it is kept, so that approving again fetches the good one.
  registry_.Put("demo/base@1.0.0", base_);
  ASSERT_TRUE(LeaveDecision(settings_.dir, "plan-1", {}).ok());
  EXPECT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
}

TEST_F(DaemonTest, RefusesABaseThatIsNotThePlans) {
  v1::TrainingPlan plan = Plan();
  plan.mutable_base()->set_tokenizer_sha256(std::string(64, 'a'));
  coordinator_->Offer(plan);
  Start();
  ASSERT_TRUE(Told(v1::JOB_FAILED));
  EXPECT_THAT(JobDetail(), HasSubstr("tokenizer is"));
}

TEST_F(DaemonTest, FailsClearlyWithoutOrWithTooLittleText) {
  std::filesystem::remove(settings_.Path("corpus/train.jsonl"));
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(Told(v1::JOB_FAILED));
  EXPECT_THAT(JobDetail(), HasSubstr("motet-node corpus import"));
  ASSERT_TRUE(learn::WriteJsonl(settings_.Path("corpus/train.jsonl"),
                                testing::SomeDocuments(3, "secret"))
                  .ok());
  coordinator_->Offer(Plan("plan-2"));
  ASSERT_TRUE(Told(v1::JOB_FAILED, "plan-2"));
  EXPECT_THAT(JobDetail("plan-2"), HasSubstr("min_documents"));
  // With text the first one goes on.
  ASSERT_TRUE(learn::WriteJsonl(settings_.Path("corpus/train.jsonl"),
                                testing::SomeDocuments(40, "secret"))
                  .ok());
  ASSERT_TRUE(LeaveDecision(settings_.dir, "plan-1", {}).ok());
  EXPECT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
}

TEST_F(DaemonTest, AnotherCorpusThanTheJobsNeedsARestart) {
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(WaitState(v1::JOB_PUBLISHED)) << JobDetail();
  Stop();
  const std::string job = settings_.Path("jobs/plan-1");
  auto record = LoadRecord(job);
  ASSERT_TRUE(record.ok());
  record->state = v1::JOB_TRAINING;
  std::filesystem::remove_all(job + "/package");
  ASSERT_TRUE(SaveRecord(job, *record).ok());
  ASSERT_TRUE(learn::WriteJsonl(settings_.Path("corpus/train.jsonl"),
                                testing::SomeDocuments(40, "other"))
                  .ok());
  Start();
  ASSERT_TRUE(WaitState(v1::JOB_FAILED));
  EXPECT_THAT(JobDetail(), HasSubstr("--restart"));
  {
    std::lock_guard lock(registry_.mutex);
    registry_.by_id.clear();
    registry_.Put("demo/base@1.0.0", base_);
  }
  ASSERT_TRUE(LeaveDecision(settings_.dir, "plan-1",
                            {.kind = OwnerDecision::Kind::kRestart,
                             .reason = "",
                             .stamp = ""})
                  .ok());
  EXPECT_TRUE(WaitState(v1::JOB_PUBLISHED)) << JobDetail();
}

TEST_F(DaemonTest, DialsAgainAndTellsAllItsJobs) {
  WritePolicy("");
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT));
  coordinator_->DropStreams();
  ASSERT_TRUE(WaitFor([&] {
    const auto messages = coordinator_->messages();
    return !messages.empty() &&
           std::any_of(messages.begin() + 1, messages.end(),
                       [](const v1::NodeMessage& m) {
                         return m.hello().jobs_size() == 1 &&
                                m.hello().jobs(0).state() ==
                                    v1::JOB_AWAITING_CONSENT;
                       });
  }));
}

TEST_F(DaemonTest, ProgressIsToldSparingly) {
  v1::TrainingPlan plan = Plan();
  plan.set_steps(300);
  coordinator_->Offer(plan);
  Start();
  ASSERT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
  const double seconds = coordinator_->Last("plan-1").seconds();
  // Two a second, and the changes of state.
  EXPECT_LT(coordinator_->messages().size(), 20 + 3 * seconds);
}

TEST_F(DaemonTest, OneDaemonAFolder) {
  Start();
  auto second = Daemon::Create(Options());
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("another motet-node run"));
}

TEST_F(DaemonTest, WithoutACertificateItSaysWhatToDo) {
  std::filesystem::remove(settings_.Path("certificate.pem"));
  auto daemon = Daemon::Create(Options());
  ASSERT_FALSE(daemon.ok());
  EXPECT_THAT(std::string(daemon.status().message()),
              HasSubstr("motet-node join"));
}

TEST_F(DaemonTest, NeverTalksToACoordinatorOfAnotherAuthority) {
  TestFederation stranger;  // the same name, another authority
  FakeCoordinator coordinator(stranger.coordinator);
  settings_.coordinator = coordinator.address();
  coordinator.Offer(Plan());
  Start();
  // It keeps dialling; no stream ever opens and no plan arrives.
  ASSERT_TRUE(
      WaitFor([&] { return !daemon_->connection().last_error().empty(); }));
  EXPECT_THAT(daemon_->connection().last_error(), HasSubstr("coordinator"));
  Stop();
  EXPECT_EQ(coordinator.connections(), 0);
  EXPECT_TRUE(ReadJobs(settings_.dir)->empty());
  EXPECT_TRUE(coordinator.messages().empty());
}

TEST_F(DaemonTest, ADamagedStateIsNamed) {
  WritePolicy("");
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(Told(v1::JOB_AWAITING_CONSENT));
  Stop();
  std::ofstream(settings_.Path("jobs/plan-1/state.json")) << "{\"state\": 3}";
  auto daemon = Daemon::Create(Options());
  ASSERT_FALSE(daemon.ok());
  EXPECT_THAT(std::string(daemon.status().message()),
              HasSubstr("jobs/plan-1/state.json"));
}

}  // namespace
}  // namespace motet::node
