// SPDX-License-Identifier: Apache-2.0
// From owners' scores of public text to tuned routers (METHODS 1, step 6), with
// rows that began with an encoder of the nodes' (step 2): plan, consent, two
// nodes, composition.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/harness/encoder_directory.h"
#include "tests/harness/federation.h"

namespace motet::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

TEST(ProxyE2e, OwnersScoresChooseWhatRoutersAreTunedOn) {
  Federation federation;
  ASSERT_NO_FATAL_FAILURE(federation.Start());
  const std::string encoder = federation.Path("encoder");
  WriteEncoderDirectory(encoder);
  for (const char* owner : {"code", "law"}) {
    federation.Join(owner);
    const std::string settings = federation.Node(owner) + "/node.toml";
    WriteText(settings,
              ReadText(settings) + "embedder = \"" + encoder + "\"\n");
    federation.StartNode(owner);
  }
  federation.Offer({.more = "proxy_scores = true\nrow_init = \"embedder\"\n"
                            "embedder_seed = 4\n"});
  // Neither owner's policy lists the scores: each is asked.
  for (const char* owner : {"code", "law"}) {
    federation.AwaitLog(owner, "waits for your consent");
    EXPECT_THAT(federation.NodeLog(owner),
                HasSubstr("one score a public document leaves"));
    EXPECT_THAT(federation.NodeLog(owner),
                HasSubstr("router rows begin with the mean vector"));
    federation.MustMotetNode(
        {"jobs", "approve", "plan", "--dir", federation.Node(owner)});
  }
  ASSERT_NO_FATAL_FAILURE(federation.AwaitPublished("plan"));

  const std::string recipe = federation.Path("tuned.toml");
  WriteText(recipe,
            "name = \"tuned\"\nmethod = \"flexolmo\"\n"
            "experts = [\"code.example/code\", \"law.example/law\"]\n"
            "[router]\nkind = \"topk\"\n[tuning]\nproxy = true\n"
            "proxy_documents = 6\nsteps = 4\nbatch_sequences = 2\n"
            "sequence_tokens = 32\n");
  federation.MustMotet({"compose", "apply", recipe});
  const json lock = json::parse(
      ReadText(federation.home() + "/compositions/tuned/motet.lock"));
  const json& tuning = lock["tuning"];
  EXPECT_EQ(tuning["proxy"]["each"], 6);
  EXPECT_EQ(tuning["proxy"]["documents"], tuning["documents"]);
  // Two lists of six that may share some, and as many drawn.
  EXPECT_GE(tuning["documents"], 12);
  EXPECT_LE(tuning["documents"], 24);
  std::vector<std::string> digests;
  for (const json& expert : lock["experts"]) {
    const json manifest = json::parse(ReadText(
        federation.home() + "/packages/" +
        expert["manifest_sha256"].get<std::string>() + "/manifest.json"));
    const json& embedder = manifest["router_row"]["embedder"];
    EXPECT_EQ(embedder["width"], 32);
    digests.push_back(embedder["sha256"]);
  }
  ASSERT_EQ(digests.size(), 2u);
  EXPECT_EQ(digests[0], digests[1]);
  EXPECT_THAT(federation.MustMotet({"compose", "apply", recipe}).out,
              HasSubstr("unchanged"));
  for (const json& proof : federation.Json({"eval", "exclusion", "tuned"})) {
    EXPECT_EQ(proof["equal"], true) << proof;
  }
}

}  // namespace
}  // namespace motet::testing
