// SPDX-License-Identifier: Apache-2.0
// A node with a coordinator that records all it hears and a registry that is
// a map, for the tests of the daemon.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <mutex>
#include <string>

#include "node/daemon.h"
#include "proto/files.h"
#include "tests/node/support.h"

namespace motet::node {

class DaemonTest : public ::testing::Test {
 protected:
  DaemonTest() : registry_(testing::NewFolder("registry")) {
    base_ = testing::MakeBasePackage(federation_,
                                     testing::NewFolder("base") + "/package");
    registry_.Put("demo/base@1.0.0", base_);
    coordinator_ = std::make_unique<testing::FakeCoordinator>(federation_.coordinator);
    settings_ = federation_.JoinedNode(coordinator_->address());
  }

  v1::TrainingPlan Plan(const std::string& id = "plan-1") {
    v1::TrainingPlan plan = testing::SomePlan(id);
    *plan.mutable_base() = testing::ReferenceTo(base_);
    return plan;
  }
  DaemonOptions Options() {
    DaemonOptions options;
    options.settings = settings_;
    options.poll_ms = 20;
    options.first_backoff_ms = 20;
    options.longest_backoff_ms = 100;
    options.registry = [this] {
      return absl::StatusOr<std::unique_ptr<registry::Client>>(
          registry_.NewClient());
    };
    return options;
  }
  void Start() {
    auto daemon = Daemon::Create(Options());
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
    daemon_->Start();
  }
  void Stop() { daemon_.reset(); }
  bool WaitState(v1::JobState state, const std::string& id = "plan-1") {
    return testing::WaitFor([&] {
      const auto job = daemon_->jobs().Get(id);
      return job.ok() && job->state == state;
    });
  }
  bool Told(v1::JobState state, const std::string& id = "plan-1") {
    return testing::WaitFor([&] { return coordinator_->Last(id).state() == state; });
  }
  std::string JobDetail(const std::string& id = "plan-1") {
    const auto job = daemon_->jobs().Get(id);
    return job.ok() ? job->detail : std::string(job.status().message());
  }
  void WritePolicy(const std::string& text) {
    ASSERT_TRUE(
        proto::WriteFileAtomic(settings_.Path("policy.toml"), text).ok());
  }
  std::string PublishedFolder(const std::string& id) {
    std::lock_guard lock(registry_.mutex);
    return registry_.by_id.at(id);
  }

  testing::TestFederation federation_;
  std::string base_;
  testing::FakeRegistry registry_;
  std::unique_ptr<testing::FakeCoordinator> coordinator_;
  Settings settings_;
  std::unique_ptr<Daemon> daemon_;
};

}  // namespace motet::node
