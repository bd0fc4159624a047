// SPDX-License-Identifier: Apache-2.0
// Router rows that begin with an embedder's vectors: what is computed, what
// the package says of it, and which plans and nodes do not go together.
#include "node/row_start.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "compose/learn/corpus.h"
#include "compose/learn/projection.h"
#include "compose/package/package_folder.h"
#include "compose/package/safetensors.h"
#include "node/job_store.h"
#include "node/plan_check.h"
#include "node/policy.h"
#include "node/training.h"
#include "proto/digest.h"
#include "tests/harness/encoder_directory.h"
#include "tests/node/daemon_fixture.h"

namespace motet::node {
namespace {

using ::testing::HasSubstr;
using testing::SomeDocuments;

std::unique_ptr<retrieve::TextEncoder> Encoder(const std::string& folder,
                                               bool normalise = true) {
  ::motet::testing::WriteEncoderDirectory(folder, {.normalise = normalise});
  auto encoder = retrieve::TextEncoder::Load(folder, math::Product::kExact);
  EXPECT_TRUE(encoder.ok()) << encoder.status();
  return *std::move(encoder);
}

RowStart Start(const retrieve::TextEncoder& encoder, uint64_t seed,
               const std::vector<std::string>& own,
               const std::vector<std::string>& other) {
  auto start =
      StartOf(encoder, seed, 40, own, other, [](double) { return true; });
  EXPECT_TRUE(start.ok()) << start.status();
  return *std::move(start);
}

TEST(RowStartTest, IsTheDifferenceOfMeanVectorsTurned) {
  // Not normalised by the encoder itself: then it is done here.
  const auto encoder = Encoder(testing::NewFolder("encoder"), false);
  const auto own = SomeDocuments(3, "ledger"), other = SomeDocuments(2, "sea");
  const RowStart start = Start(*encoder, 4, own, other);
  std::vector<double> mean(32);
  for (const auto* documents : {&own, &other}) {
    const auto vectors = encoder->Encode(*documents);
    ASSERT_TRUE(vectors.ok()) << vectors.status();
    for (size_t i = 0; i < documents->size(); ++i) {
      const float* v = vectors->values.data() + i * 32;
      double square = 0;
      for (int c = 0; c < 32; ++c) square += double{v[c]} * v[c];
      const double sign = documents == &own ? 1.0 : -1.0;
      for (int c = 0; c < 32; ++c) {
        mean[c] += sign * v[c] / std::sqrt(square) /
                   static_cast<double>(documents->size());
      }
    }
  }
  const auto want = learn::Times(learn::Orthonormal(40, 32, 4), mean);
  ASSERT_EQ(start.direction.size(), 40u);
  double length = 0;
  for (int c = 0; c < 40; ++c) {
    EXPECT_NEAR(start.direction[c], want[c], 1e-12);
    length += want[c] * want[c];
  }
  EXPECT_GT(length, 1e-6);
  EXPECT_EQ(start.embedder.sha256(), proto::Hex(encoder->digest()));
  EXPECT_EQ(start.embedder.width(), 32u);
  EXPECT_EQ(start.embedder.seed(), 4u);
  EXPECT_EQ(start.embedder.documents(), 3u);
}

TEST(RowStartTest, SameBitsForAnyThreadsAndOneMapForAllOwners) {
  const auto encoder = Encoder(testing::NewFolder("encoder"));
  const auto own = SomeDocuments(70, "ledger"), sea = SomeDocuments(70, "sea");
  const RowStart one = Start(*encoder, 4, own, sea);
  omp_set_num_threads(1);
  EXPECT_EQ(Start(*encoder, 4, own, sea).direction, one.direction);
  omp_set_num_threads(2);
  // Two owners with each other's text for public: one's row is the other's
  // opposite, as one matrix turns both.
  const RowStart two = Start(*encoder, 4, sea, own);
  for (int c = 0; c < 40; ++c) {
    EXPECT_NEAR(two.direction[c], -one.direction[c], 1e-12);
  }
  EXPECT_NE(Start(*encoder, 5, own, sea).direction, one.direction);
}

TEST(RowStartTest, ReadsAThousandOfMoreAndStopsWhenTold) {
  const auto encoder = Encoder(testing::NewFolder("encoder"));
  std::vector<std::string> own;
  for (int i = 0; i < 2500; ++i) own.push_back(i % 5 < 3 ? "ab" : "xyz");
  EXPECT_EQ(Start(*encoder, 0, own, {"sea"}).embedder.documents(), 1000u);
  int asked = 0;
  const auto stopped = StartOf(*encoder, 0, 40, own, {"sea"},
                               [&](double) { return ++asked < 3; });
  EXPECT_TRUE(absl::IsCancelled(stopped.status()));
  EXPECT_EQ(asked, 3);
}

class EmbedderJobTest : public DaemonTest {
 protected:
  v1::TrainingPlan EmbedderPlan(const std::string& id) {
    v1::TrainingPlan plan = Plan(id);
    plan.set_row_init("embedder");
    plan.set_embedder_seed(3);
    plan.set_learning_rate(1e-9);  // all but nothing moves
    return plan;
  }
  // Runs one job of a node that starts for it alone.
  void RunTo(v1::JobState state, const v1::TrainingPlan& plan) {
    coordinator_->Offer(plan);
    Start();
    ASSERT_TRUE(Told(state, plan.id())) << JobDetail(plan.id());
  }
};

TEST_F(EmbedderJobTest, RowsBeginWithItAndTheManifestSaysSo) {
  settings_.embedder = testing::NewFolder("encoder");
  const auto encoder = Encoder(settings_.embedder);
  v1::TrainingPlan plan = EmbedderPlan("plan-1");
  plan.set_embedder_sha256(proto::Hex(encoder->digest()));
  EXPECT_THAT(DescribePlan(plan, settings_, LoadPolicy(settings_.dir)),
              HasSubstr("mean vector of up to 1000 of your documents"));
  RunTo(v1::JOB_PUBLISHED, plan);
  const std::string folder = PublishedFolder("code.example/code@1.0.0");
  auto opened =
      package::OpenPackage(folder, federation_.authority.certificate_pem);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const v1::RouterRowRecord& record = opened->manifest.router_row();
  EXPECT_EQ(record.source(), "trained");
  EXPECT_EQ(record.embedder().sha256(), plan.embedder_sha256());
  EXPECT_EQ(record.embedder().seed(), 3u);
  EXPECT_EQ(record.embedder().documents(), 40u);
  const auto own = learn::ReadJsonl(settings_.Path("corpus/train.jsonl"));
  const auto other = learn::ReadJsonl(base_ + "/public.jsonl");
  ASSERT_TRUE(own.ok() && other.ok());
  const auto start =
      StartOf(*encoder, 3, 16, *own, *other, [](double) { return true; });
  ASSERT_TRUE(start.ok()) << start.status();
  double square = 0;
  for (const double x : start->direction) square += x * x;
  auto file = package::SafetensorsFile::Open(folder + "/weights.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  for (const char* name : {"layers.0.router.row", "layers.1.router.row"}) {
    const math::Tensor row = (*file)->Find(name);
    ASSERT_EQ(row.size(), 16);
    for (int c = 0; c < 16; ++c) {
      EXPECT_NEAR(row.f32()[c], 0.5 * start->direction[c] / std::sqrt(square),
                  1e-6);
    }
  }
}

TEST_F(EmbedderJobTest, ANodeWithoutOneFailsTheJobAndSaysWhatToDo) {
  RunTo(v1::JOB_FAILED, EmbedderPlan("plan-1"));
  EXPECT_THAT(JobDetail(), HasSubstr("node.toml: embedder] got none"));
  // The coordinator reads no path of the owner's.
  EXPECT_THAT(coordinator_->Last("plan-1").detail(),
              HasSubstr("the embedder of the router rows failed"));
}

TEST_F(EmbedderJobTest, AnotherEncoderThanThePlansFailsTheJob) {
  settings_.embedder = testing::NewFolder("encoder");
  const auto encoder = Encoder(settings_.embedder);
  v1::TrainingPlan plan = EmbedderPlan("plan-1");
  plan.set_embedder_sha256(std::string(64, '5'));
  RunTo(v1::JOB_FAILED, plan);
  EXPECT_THAT(JobDetail(), HasSubstr(proto::Hex(encoder->digest())));
  EXPECT_THAT(JobDetail(), HasSubstr("want " + std::string(64, '5')));
}

TEST_F(EmbedderJobTest, AnInterruptedRunGoesOnToTheSameBits) {
  settings_.embedder = testing::NewFolder("encoder");
  Encoder(settings_.embedder);
  const auto documents = SomeDocuments(40, "secret");
  v1::TrainingPlan plan = EmbedderPlan("plan-1");
  plan.set_learning_rate(3e-3);
  auto opened =
      package::OpenPackage(base_, federation_.authority.certificate_pem);
  ASSERT_TRUE(opened.ok()) << opened.status();
  auto base = LoadBase(*std::move(opened));
  ASSERT_TRUE(base.ok()) << base.status();
  auto encoder = OpenEmbedder(plan, settings_);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  const auto train = [&](const std::string& checkpoint, uint64_t stop) {
    auto start = StartOf(**encoder, plan.embedder_seed(), 16, documents,
                         base->public_documents, [](double) { return true; });
    EXPECT_TRUE(start.ok()) << start.status();
    return TrainExpert(
        plan, *base, documents, {}, checkpoint, 0,
        [stop](const learn::TrainProgress& p) {
          return static_cast<uint64_t>(p.step) != stop;
        },
        [] {}, *std::move(start));
  };
  const std::string folder = testing::NewFolder("runs");
  const auto whole = train(folder + "/whole", 0);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_TRUE(absl::IsCancelled(train(folder + "/cut", 5).status()));
  const auto resumed = train(folder + "/cut", 0);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  for (int c = 0; c < 16; ++c) {
    EXPECT_EQ(resumed->expert.layers[0].row.f32()[c],
              whole->expert.layers[0].row.f32()[c]);
  }
  // Begun otherwise, it is another run: the checkpoint is refused.
  plan.set_embedder_seed(9);
  EXPECT_THAT(std::string(train(folder + "/cut", 0).status().message()),
              HasSubstr("row_direction"));
}

}  // namespace
}  // namespace motet::node
