// SPDX-License-Identifier: Apache-2.0
// The daemon of daemon_test.cc interrupted: a registry that is down, a run that
// is stopped, a start from every state.
#include "node/daemon.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "node/job_files.h"
#include "proto/digest.h"
#include "proto/files.h"
#include "tests/node/daemon_fixture.h"
#include "tests/node/support.h"

namespace motet::node {
namespace {

using testing::FakeRegistry;
using testing::NewFolder;
using testing::ReadAll;
using testing::WaitFor;

TEST_F(DaemonTest, WaitsForARegistryThatIsDown) {
  registry_.down = true;
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(WaitFor([&] {
    return JobDetail().find("waiting: [registry]") != std::string::npos;
  })) << JobDetail();
  ASSERT_TRUE(WaitFor([&] {
    return coordinator_->Last("plan-1").detail().find("waiting") !=
           std::string::npos;
  }));
  {
    std::lock_guard lock(registry_.mutex);
    registry_.down = false;
    registry_.failures_left = 3;  // then the publish waits, too
  }
  EXPECT_TRUE(Told(v1::JOB_PUBLISHED)) << JobDetail();
  EXPECT_EQ(registry_.attempts, 4);
  EXPECT_EQ(registry_.publishes, 1);
}

TEST_F(DaemonTest, AStoppedRunEndsWithTheSameWeights) {
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(WaitState(v1::JOB_PUBLISHED)) << JobDetail();
  Stop();
  const std::string unbroken = proto::Hex(
      *proto::Sha256File(PublishedFolder("code.example/code@1.0.0") +
                         "/weights.safetensors"));
  // The same plan at the same owner's other folder, stopped again and again.
  FakeRegistry other(NewFolder("registry2"));
  other.Put("demo/base@1.0.0", base_);
  settings_ = federation_.JoinedNode(coordinator_->address());
  int stops = 0;
  uint64_t reached = 0;
  for (bool done = false; !done;) {
    DaemonOptions options = Options();
    options.registry = [&other] {
      return absl::StatusOr<std::unique_ptr<registry::Client>>(
          other.NewClient());
    };
    auto daemon = Daemon::Create(std::move(options));
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
    daemon_->Start();
    ASSERT_TRUE(WaitFor([&] {
      const auto job = daemon_->jobs().Get("plan-1");
      if (!job.ok()) return false;
      done = job->state == v1::JOB_PUBLISHED;
      return done || job->step > reached;
    }));
    reached = daemon_->jobs().Get("plan-1")->step;
    stops += done ? 0 : 1;
    Stop();
  }
  EXPECT_GE(stops, 1);
  EXPECT_EQ(proto::Hex(*proto::Sha256File(
                other.by_id.at("code.example/code@1.0.0") +
                "/weights.safetensors")),
            unbroken);
}

// Each state in which a process can die, as files on disk.
TEST_F(DaemonTest, ResumesFromEveryState) {
  coordinator_->Offer(Plan());
  Start();
  ASSERT_TRUE(WaitState(v1::JOB_PUBLISHED)) << JobDetail();
  Stop();
  const std::string job = settings_.Path("jobs/plan-1");
  const std::string first = ReadAll(job + "/package/manifest.json");
  const auto set_state = [&](v1::JobState state) {
    auto record = LoadRecord(job);
    ASSERT_TRUE(record.ok()) << record.status();
    record->state = state;
    ASSERT_TRUE(SaveRecord(job, *record).ok());
  };
  // Died after the registry's answer, before it was noted.
  set_state(v1::JOB_PUBLISHING);
  Start();
  ASSERT_TRUE(WaitState(v1::JOB_PUBLISHED)) << JobDetail();
  Stop();
  EXPECT_EQ(registry_.publishes, 1);
  // Died between the package and its state.
  set_state(v1::JOB_TRAINING);
  Start();
  ASSERT_TRUE(WaitState(v1::JOB_PUBLISHED)) << JobDetail();
  Stop();
  EXPECT_EQ(ReadAll(job + "/package/manifest.json"), first);
  EXPECT_EQ(registry_.publishes, 1);
  // Died while the package was built: half of one lies there.
  const std::string weights = ReadAll(job + "/package/weights.safetensors");
  std::filesystem::remove_all(job + "/package/model.sig");
  std::filesystem::rename(job + "/package", job + "/package.partial");
  set_state(v1::JOB_TRAINING);
  {
    std::lock_guard lock(registry_.mutex);
    registry_.by_id.clear();
    registry_.Put("demo/base@1.0.0", base_);
  }
  Start();
  ASSERT_TRUE(WaitState(v1::JOB_PUBLISHED)) << JobDetail();
  Stop();
  EXPECT_EQ(ReadAll(job + "/package/weights.safetensors"), weights);
  // Died right after consent, and without any result.
  ASSERT_TRUE(RemoveResults(job).ok());
  set_state(v1::JOB_APPROVED);
  {
    std::lock_guard lock(registry_.mutex);
    registry_.by_id.clear();
    registry_.Put("demo/base@1.0.0", base_);
  }
  Start();
  ASSERT_TRUE(WaitState(v1::JOB_PUBLISHED)) << JobDetail();
  Stop();
  EXPECT_EQ(ReadAll(job + "/package/weights.safetensors"), weights);
}

}  // namespace
}  // namespace motet::node
