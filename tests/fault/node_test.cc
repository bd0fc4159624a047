// SPDX-License-Identifier: Apache-2.0
// kill -9 of a node in the middle of training: it goes on from its last
// checkpoint and ends with the weights of a run that nothing disturbed.
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <system_error>

#include "tests/harness/federation.h"

namespace motet::testing {
namespace {

struct Kind {
  const char* name;
  int steps;         // enough that two kills come before the end
  const char* more;  // of the plan
};
class KilledNode : public ::testing::TestWithParam<Kind> {};

TEST_P(KilledNode, ResumesToTheSameWeights) {
  const int steps = GetParam().steps;
  Federation federation;
  ASSERT_NO_FATAL_FAILURE(federation.Start());
  federation.Join("code");
  federation.StartNode("code");
  federation.Offer({"broken", "1.0.0", steps, 20, GetParam().more});
  const std::string folder = federation.Node("code") + "/jobs/broken";
  // Of the newest checkpoint; the clock's start while there is none.
  const auto written = [&] {
    std::error_code absent;
    const auto time =
        std::filesystem::last_write_time(folder + "/checkpoint", absent);
    return absent ? std::filesystem::file_time_type{} : time;
  };
  // Killed twice, each time as soon as it has written a checkpoint of its own:
  // what a coordinator reports of a fast run comes too late to aim by.
  for (const char* run : {"first", "second"}) {
    const auto before = written();
    ASSERT_TRUE(WaitUntil(absl::StrCat("a checkpoint of the ", run, " run"),
                          [&] { return written() != before; }));
    federation.node("code").Kill();
    ASSERT_TRUE(std::filesystem::exists(folder + "/checkpoint"));
    ASSERT_FALSE(std::filesystem::exists(folder + "/package"))
        << "killed too late to show anything: raise the steps";
    federation.StartNode("code");
  }
  ASSERT_NO_FATAL_FAILURE(federation.AwaitPublished("broken"));

  federation.Offer({"unbroken", "1.0.1", steps, 20, GetParam().more});
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

INSTANTIATE_TEST_SUITE_P(
    Kinds, KilledNode,
    ::testing::Values(
        Kind{"Ffn", 2000, ""}, Kind{"Dense", 1500, "kind = \"dense\"\n"},
        // The probe is taken again at each start.
        Kind{"Sized", 1500,
             "kind = \"sized\"\nsize = \"probe\"\ntrunk = \"frozen\"\n"
             "ffn_widths = [40, 72]\nsteps_choices = [1200, 1400]\n"
             "probe_thresholds = [2]\n"}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace motet::testing
