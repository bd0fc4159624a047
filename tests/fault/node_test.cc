// SPDX-License-Identifier: Apache-2.0
// kill -9 of a node in the middle of training: it goes on from its last
// checkpoint and ends with the weights of a run that nothing disturbed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/harness/federation.h"

namespace motet::testing {
namespace {

TEST(KilledNode, ResumesToTheSameWeights) {
  constexpr int kSteps = 1200;
  Federation federation;
  ASSERT_NO_FATAL_FAILURE(federation.Start());
  federation.Join("code");
  federation.StartNode("code");
  federation.Offer({"broken", "1.0.0", kSteps, 20});
  // Killed twice, each time later in the run.
  for (const int least : {150, 500}) {
    nlohmann::json job;
    ASSERT_TRUE(WaitUntil("step " + std::to_string(least), [&] {
      job = federation.Job("broken");
      return job.is_object() && job["step"] >= least;
    }));
    federation.node("code").Kill();
    EXPECT_LT(job["step"], kSteps);
    const std::string folder = federation.Node("code") + "/jobs/broken";
    ASSERT_TRUE(std::filesystem::exists(folder + "/checkpoint"));
    ASSERT_FALSE(std::filesystem::exists(folder + "/package"))
        << "killed too late to show anything: raise kSteps";
    federation.StartNode("code");
  }
  ASSERT_NO_FATAL_FAILURE(federation.AwaitPublished("broken"));

  federation.Offer({"unbroken", "1.0.1", kSteps, 20});
  ASSERT_TRUE(WaitUntil("the second plan's job", [&] {
    return federation.Job("unbroken").is_object();
  }));
  ASSERT_NO_FATAL_FAILURE(federation.AwaitPublished("unbroken"));
  EXPECT_THAT(federation.Packages(),
              ::testing::UnorderedElementsAre("demo/base@1.0.0",
                                              "code.example/code@1.0.0",
                                              "code.example/code@1.0.1"));
  // What the registry hands out, not what the node keeps.
  std::string weights[2];
  for (int i = 0; i < 2; ++i) {
    const std::string out = federation.Path("fetched" + std::to_string(i));
    federation.MustMotet({"expert", "fetch",
                          "code.example/code@1.0." + std::to_string(i),
                          "--out", out});
    weights[i] = ReadText(out + "/weights.safetensors");
  }
  EXPECT_FALSE(weights[0].empty());
  EXPECT_TRUE(weights[0] == weights[1])
      << "the resumed run ended with other weights";
}

}  // namespace
}  // namespace motet::testing
