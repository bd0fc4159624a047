// SPDX-License-Identifier: Apache-2.0
// What a restarted coordinator knows of its plans and jobs.
#include "coordinator/job_store.h"

#include <stdlib.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

using testing::HasSubstr;

v1::TrainingPlan Plan(const std::string& id,
                      const std::vector<std::string>& owners = {}) {
  v1::TrainingPlan plan;
  plan.set_id(id);
  plan.set_method("flexolmo");
  plan.set_steps(10);
  plan.set_learning_rate(1.0 / 3);
  plan.set_seed(8999999999999999u);
  plan.set_issued_at("2026-01-01T00:00:00Z");
  for (const std::string& owner : owners) plan.add_owners(owner);
  return plan;
}

v1::JobUpdate Job(const std::string& plan, v1::JobState state,
                  const std::string& owner = "a.example",
                  const std::string& node = "one") {
  v1::JobUpdate update;
  update.set_plan_id(plan);
  update.set_state(state);
  update.set_owner(owner);
  update.set_node(node);
  return update;
}

class JobStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "jobsXXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    folder_ += "/jobs";
    Reopen();
  }
  void Reopen() {
    store_.reset();
    auto store = JobStore::Open(folder_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  std::vector<std::string> OpenIds(const std::string& owner,
                                   const std::string& node = "one") {
    std::vector<std::string> ids;
    for (const auto& plan : store_->Open(owner, node)) ids.push_back(plan.id());
    return ids;
  }

  std::string folder_;
  std::unique_ptr<JobStore> store_;
};

TEST_F(JobStoreTest, ReopenKeepsPlansAndStates) {
  const v1::TrainingPlan plan = Plan("p1", {"a.example"});
  ASSERT_TRUE(store_->AddPlan(plan).ok());
  v1::JobUpdate published = Job("p1", v1::JOB_PUBLISHED);
  published.set_package_id("a.example/a@1.0.0");
  published.set_loss(0.1);
  ASSERT_TRUE(store_->Update(published).ok());
  ASSERT_TRUE(store_->Update(Job("p1", v1::JOB_TRAINING, "b.example")).ok());
  Reopen();
  ASSERT_EQ(store_->Plans().size(), 1u);
  EXPECT_EQ(store_->Plans()[0].SerializeAsString(), plan.SerializeAsString());
  ASSERT_EQ(store_->Jobs().size(), 2u);
  EXPECT_EQ(store_->Jobs()[0].SerializeAsString(),
            published.SerializeAsString());
  EXPECT_EQ(store_->Jobs()[1].state(), v1::JOB_TRAINING);
}

TEST_F(JobStoreTest, ProgressIsSeenAndChangesOfStateAreKept) {
  ASSERT_TRUE(store_->AddPlan(Plan("p1")).ok());
  v1::JobUpdate update = Job("p1", v1::JOB_TRAINING);
  update.set_step(1);
  ASSERT_TRUE(store_->Update(update).ok());
  update.set_step(9);
  ASSERT_TRUE(store_->Update(update).ok());
  EXPECT_EQ(store_->Jobs()[0].step(), 9u);
  update.set_state(v1::JOB_FAILED);
  ASSERT_TRUE(store_->Update(update).ok());
  Reopen();
  EXPECT_EQ(store_->Jobs()[0].state(), v1::JOB_FAILED);
  EXPECT_EQ(store_->Jobs()[0].step(), 9u);
}

TEST_F(JobStoreTest, SamePlanAgainIsFineAnotherIsNot) {
  v1::TrainingPlan plan = Plan("p1");
  ASSERT_TRUE(store_->AddPlan(plan).ok());
  plan.set_issued_at("2027-01-01T00:00:00Z");
  EXPECT_TRUE(store_->AddPlan(plan).ok());
  Reopen();
  EXPECT_TRUE(store_->AddPlan(plan).ok());
  plan.set_steps(11);
  const absl::Status taken = store_->AddPlan(plan);
  EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(taken.message()), HasSubstr("p1"));
  EXPECT_EQ(store_->Plans()[0].steps(), 10u);
}

TEST_F(JobStoreTest, IdsThatAreNoFolderNamesAreRefused) {
  for (const char* id : {"", "..", "../up", "a/b", "A", "/abs"}) {
    EXPECT_EQ(store_->AddPlan(Plan(id)).code(),
              absl::StatusCode::kInvalidArgument)
        << id;
  }
  EXPECT_TRUE(store_->Plans().empty());
  EXPECT_FALSE(proto::Exists(folder_ + "/../up"));
}

TEST_F(JobStoreTest, UpdateOfAnUnknownPlanIsNotFound) {
  EXPECT_EQ(store_->Update(Job("p9", v1::JOB_TRAINING)).code(),
            absl::StatusCode::kNotFound);
  EXPECT_TRUE(store_->Jobs().empty());
}

TEST_F(JobStoreTest, OpenPlansAreTheOwnersUnfinishedOnes) {
  ASSERT_TRUE(store_->AddPlan(Plan("all")).ok());
  ASSERT_TRUE(store_->AddPlan(Plan("only-a", {"a.example"})).ok());
  EXPECT_EQ(OpenIds("a.example"),
            (std::vector<std::string>{"all", "only-a"}));
  EXPECT_EQ(OpenIds("b.example"), std::vector<std::string>{"all"});
  for (const v1::JobState state :
       {v1::JOB_OFFERED, v1::JOB_AWAITING_CONSENT, v1::JOB_APPROVED,
        v1::JOB_TRAINING, v1::JOB_PUBLISHING}) {
    EXPECT_FALSE(IsFinal(state)) << StateName(state);
    ASSERT_TRUE(store_->Update(Job("all", state)).ok());
    EXPECT_EQ(OpenIds("a.example").size(), 2u) << StateName(state);
  }
  for (const v1::JobState state : {v1::JOB_PUBLISHED, v1::JOB_FAILED,
                                   v1::JOB_REFUSED, v1::JOB_CANCELLED}) {
    EXPECT_TRUE(IsFinal(state)) << StateName(state);
    ASSERT_TRUE(store_->Update(Job("all", state)).ok());
    EXPECT_EQ(OpenIds("a.example"), std::vector<std::string>{"only-a"})
        << StateName(state);
  }
  // Another node of the owner, and another owner, still have it to do.
  EXPECT_EQ(OpenIds("a.example", "two").size(), 2u);
  EXPECT_EQ(OpenIds("b.example"), std::vector<std::string>{"all"});
}

TEST_F(JobStoreTest, MembersWithDashesDoNotShareAJob) {
  ASSERT_TRUE(store_->AddPlan(Plan("p1")).ok());
  ASSERT_TRUE(store_->Update(Job("p1", v1::JOB_TRAINING, "a", "b--c")).ok());
  ASSERT_TRUE(store_->Update(Job("p1", v1::JOB_REFUSED, "a--b", "c")).ok());
  EXPECT_EQ(store_->Jobs().size(), 2u);
  EXPECT_EQ(OpenIds("a", "b--c").size(), 1u);
  Reopen();
  EXPECT_EQ(store_->Jobs().size(), 2u);
}

TEST_F(JobStoreTest, BrokenFileIsNamed) {
  ASSERT_TRUE(store_->AddPlan(Plan("p1")).ok());
  ASSERT_TRUE(proto::WriteFileAtomic(folder_ + "/p1/plan.json", "{").ok());
  const auto store = JobStore::Open(folder_);
  ASSERT_FALSE(store.ok());
  EXPECT_THAT(std::string(store.status().message()),
              HasSubstr("p1/plan.json"));
}

}  // namespace
}  // namespace motet::coordinator
