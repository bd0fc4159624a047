// SPDX-License-Identifier: Apache-2.0
// The registry dies in the middle of a publish, or is not there when a node
// wants to publish: the node says that it waits, and goes on by itself;
// members see the package once, and never a half of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>

#include "tests/harness/federation.h"

namespace motet::testing {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

int Count(const std::vector<std::string>& all, const std::string& one) {
  return static_cast<int>(std::count(all.begin(), all.end(), one));
}

// Waits until the plan's job says in `motet train status` that it waits.
void AwaitWaiting(Federation& federation, const std::string& plan) {
  ASSERT_TRUE(WaitUntil("the job to say that it waits", [&] {
    const nlohmann::json job = federation.Job(plan);
    return job.is_object() && job["detail"].get<std::string>().rfind(
                                  "waiting: ", 0) == 0;
  }));
  EXPECT_EQ(federation.Job(plan)["state"], "publishing");
  EXPECT_THAT(federation.NodeLog("code"),
              HasSubstr(plan + ": waiting, and trying again by itself"));
}

TEST(KilledRegistry, PublishCompletesAndNothingIsHalfVisible) {
  struct Case {
    const char* fault;
    bool durable;  // the commit is done when the process dies
  };
  const Case cases[] = {{"publish_after_chunk:1", false},
                        {"publish_before_commit", false},
                        {"publish_after_commit", true}};
  Federation federation;
  ASSERT_NO_FATAL_FAILURE(federation.Start());
  federation.Join("code");
  federation.StartNode("code");
  federation.AwaitLog("code", "connected to");
  int number = 0;
  for (const Case& at : cases) {
    SCOPED_TRACE(at.fault);
    const std::string version = "1.0." + std::to_string(number);
    const std::string plan = "plan" + std::to_string(number++);
    const std::string id = "code.example/code@" + version;
    EXPECT_EQ(federation.registry().Stop(), 0);
    federation.StartRegistry({{"MOTET_FAULT", at.fault}});
    federation.Offer({plan, version});
    EXPECT_EQ(federation.registry().Wait(), -SIGKILL);
    ASSERT_NO_FATAL_FAILURE(AwaitWaiting(federation, plan));
    // The node holds still, so that what is seen is what the crash left.
    federation.node("code").Signal(SIGSTOP);
    federation.StartRegistry();
    const std::vector<std::string> left = federation.Packages();
    EXPECT_EQ(Count(left, id), at.durable ? 1 : 0);
    const std::string out = federation.Path("half" + version);
    EXPECT_EQ(federation.Motet({"expert", "fetch", id, "--out", out}).code,
              at.durable ? 0 : 1);
    federation.node("code").Signal(SIGCONT);
    ASSERT_NO_FATAL_FAILURE(federation.AwaitPublished(plan));
    EXPECT_EQ(Count(federation.Packages(), id), 1);
    federation.MustMotet(
        {"expert", "fetch", id, "--out", federation.Path("whole" + version)});
  }
  // The log has each publish once: the base and three experts.
  EXPECT_EQ(federation.Json({"expert", "log"}).size(), 4u);
}

TEST(AbsentRegistry, NodeWaitsSaysSoAndContinues) {
  Federation federation;
  ASSERT_NO_FATAL_FAILURE(federation.Start());
  federation.Join("code");
  federation.StartNode("code");
  // A first job brings the base to the node; the second needs the registry
  // for nothing but its publish.
  federation.AwaitLog("code", "connected to");
  federation.Offer({"first", "1.0.0"});
  ASSERT_NO_FATAL_FAILURE(federation.AwaitPublished("first"));
  EXPECT_EQ(federation.registry().Stop(), 0);

  federation.Offer({"second", "1.0.1"});
  ASSERT_NO_FATAL_FAILURE(AwaitWaiting(federation, "second"));
  EXPECT_TRUE(federation.node("code").Alive());
  EXPECT_THAT(federation.NodeLog("code"),
              HasSubstr(federation.registry_address()));
  // Whoever asks the registry itself is told what is wrong.
  const Result list = federation.Motet({"expert", "list"});
  EXPECT_EQ(list.code, 1);
  EXPECT_THAT(list.err, HasSubstr(federation.registry_address()));
  EXPECT_THAT(list.err, HasSubstr("got "));
  EXPECT_THAT(list.err, HasSubstr("want "));

  // A node that was stopped while it waited goes on as well.
  EXPECT_EQ(federation.node("code").Stop(), 0) << federation.NodeLog("code");
  federation.StartNode("code");
  federation.StartRegistry();
  ASSERT_NO_FATAL_FAILURE(federation.AwaitPublished("second"));
  EXPECT_THAT(federation.Packages(), Contains("code.example/code@1.0.1"));
}

}  // namespace
}  // namespace motet::testing
