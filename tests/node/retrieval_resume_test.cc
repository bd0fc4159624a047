// SPDX-License-Identifier: Apache-2.0
#include "compose/package/peft.h"
#include "node/retrieval_jobs.h"
#include "tests/node/retrieval_fixture.h"

namespace motet::node {
namespace {

using testing::NewFolder;

// A node that was stopped ranks with the adapters that are left.
TEST_F(RetrievalJobs, PilotsGoOnFromTheScoresThatAreDone) {
  Join("sea");
  Join("law");
  Train("sea");
  Train("law");
  const v1::TrainingPlan plan =
      PilotPlan("sea", {Adapter("law"), Adapter("sea")});
  EncoderBase base;
  base.package = base_;
  auto encoder =
      retrieve::TextEncoder::Load(base_.folder, math::Product::kExact);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  base.encoder = *std::move(encoder);
  const auto load = [&](const std::string& name) {
    return *package::LoadLora(Published(Adapter(name)).folder,
                              base.encoder->config());
  };
  std::vector<std::unique_ptr<package::LoadedLora>> adapters;
  adapters.push_back(load("law"));
  adapters.push_back(load("sea"));
  auto corpus = LoadRetrieval(owners_["sea"].settings, 2);
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  Policy policy;
  policy.min_queries = 2;
  const auto make = [&](const std::string& checkpoint, bool go_on) {
    return MakeOwnersPilots(plan, policy, base, corpus->set, adapters, 1,
                            {checkpoint, ""}, nullptr,
                            [&](const ScoringProgress&) { return go_on; });
  };
  const auto same = [](const OwnersPilots& a, const OwnersPilots& b) {
    ASSERT_EQ(a.made.groups.size(), b.made.groups.size());
    for (size_t g = 0; g < a.made.groups.size(); ++g) {
      EXPECT_EQ(a.made.groups[g].queries, b.made.groups[g].queries);
      EXPECT_EQ(a.made.groups[g].mean, b.made.groups[g].mean);
      EXPECT_EQ(a.made.groups[g].gate, b.made.groups[g].gate);
    }
  };
  const std::string path = NewFolder("scores") + "/checkpoint";
  EXPECT_EQ(make(path, false).status().code(), absl::StatusCode::kCancelled);
  const auto whole = make(NewFolder("scores") + "/checkpoint", true);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->gate_share, retrieve::kGateShare);
  // Consented to in words that do not name the gates: none are made.
  v1::TrainingPlan former = plan;
  former.clear_publishes();
  former.add_publishes("mean vectors of groups of queries, with counts");
  const auto ungated = MakeOwnersPilots(
      former, policy, base, corpus->set, adapters, 1,
      {NewFolder("scores") + "/checkpoint", ""}, nullptr,
      [](const ScoringProgress&) { return true; });
  ASSERT_TRUE(ungated.ok()) << ungated.status();
  EXPECT_EQ(ungated->gate_share, 0);
  EXPECT_EQ(ungated->made.groups[0].mean, whole->made.groups[0].mean);
  EXPECT_EQ(ungated->made.groups[0].gate, -1);
  // By the file: whatever is said to be the first adapter now, is not asked.
  adapters[0] = load("sea");
  const auto resumed = make(path, true);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  same(*resumed, *whole);
  // Scores of other queries are no scores, nor is a damaged file.
  adapters[0] = load("law");
  corpus->set.queries.pop_back();
  const auto fewer = make(NewFolder("scores") + "/checkpoint", true);
  const auto again = make(path, true);
  ASSERT_TRUE(fewer.ok() && again.ok());
  same(*again, *fewer);
  ASSERT_TRUE(proto::WriteFileAtomic(path, "damaged").ok());
  const auto anew = make(path, true);
  ASSERT_TRUE(anew.ok()) << anew.status();
  same(*anew, *fewer);
}

// A cancelled job ends between two batches of documents, not after them all.
TEST_F(RetrievalJobs, ACancelledJobStopsEncoding) {
  Owner& owner = Join("sea", "", 30000);  // seconds of encoding
  const v1::TrainingPlan plan = Plan("train-sea", package::kEmbeddingAdapter);
  owner.coordinator->Offer(plan);
  ASSERT_TRUE(testing::WaitFor([&] {
    const auto job = owner.daemon->jobs().Get(plan.id());
    return job.ok() && job->detail == "encoding documents";
  }));
  owner.coordinator->Cancel(plan.id());
  ASSERT_TRUE(testing::WaitFor([&] {
    return owner.coordinator->Last(plan.id()).state() == v1::JOB_CANCELLED;
  }));
  EXPECT_EQ(owner.daemon->jobs().Get(plan.id())->step, 0u);
  // A file each 8,192 documents: not all four are there.
  const std::string vectors = owner.settings.Path("corpus/vectors");
  const std::filesystem::directory_iterator files(vectors);
  EXPECT_LT(std::distance(begin(files), end(files)), 4);
}

}  // namespace
}  // namespace motet::node
