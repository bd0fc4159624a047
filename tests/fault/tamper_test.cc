// SPDX-License-Identifier: Apache-2.0
// One byte of a fetched package is wrong: whoever is to use it says so,
// naming the file, and uses nothing of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/harness/federation.h"

namespace motet::testing {
namespace {

using ::testing::HasSubstr;

TEST(Tampered, AnyByteOfAPackageIsNoticed) {
  Federation federation;
  ASSERT_NO_FATAL_FAILURE(federation.Start());
  federation.Join("code");
  federation.StartNode("code");
  federation.AwaitLog("code", "connected to");
  federation.Offer({});
  ASSERT_NO_FATAL_FAILURE(federation.AwaitPublished("plan"));
  const std::string recipe = federation.Path("recipe.toml");
  WriteText(recipe,
            "name = \"one\"\nmethod = \"flexolmo\"\n"
            "experts = [\"code.example/code\"]\n"
            "[router]\nkind = \"anchored\"\n");
  federation.MustMotet({"compose", "plan", recipe});  // fetches
  const std::string sha256 = federation.Job("plan")["manifest_sha256"];
  const std::string folder = federation.home() + "/packages/" + sha256;
  ASSERT_TRUE(std::filesystem::exists(folder));
  federation.MustMotet({"expert", "verify", folder});

  for (const std::string file :
       {"weights.safetensors", "manifest.json", "README.md", "model.sig"}) {
    SCOPED_TRACE(file);
    const std::string path = folder + "/" + file;
    const std::string good = ReadText(path);
    ASSERT_FALSE(good.empty());
    std::string bad = good;
    bad[bad.size() / 2] ^= 1;
    WriteText(path, bad);
    const Result verify = federation.Motet({"expert", "verify", folder});
    EXPECT_EQ(verify.code, 1) << verify.out;
    // A wrong signature is called that; any other file by its name.
    const std::string named = file == "model.sig" ? "signature" : file;
    EXPECT_THAT(verify.err, HasSubstr(named));
    EXPECT_THAT(verify.err, HasSubstr("["));
    EXPECT_THAT(verify.err, HasSubstr("got "));
    EXPECT_THAT(verify.err, HasSubstr("want "));
    const Result apply = federation.Motet({"compose", "apply", recipe});
    EXPECT_EQ(apply.code, 1) << apply.out;
    EXPECT_THAT(apply.err, HasSubstr(named));
    EXPECT_FALSE(std::filesystem::exists(federation.home() +
                                         "/compositions/one/motet.lock"));
    WriteText(path, good);
  }
  federation.MustMotet({"expert", "verify", folder});
  federation.MustMotet({"compose", "apply", recipe});

  // What was composed is checked again when it is to be used.
  const std::string weights = folder + "/weights.safetensors";
  std::string bad = ReadText(weights);
  bad.back() ^= 1;
  WriteText(weights, bad);
  const Result serve = federation.Motet(
      {"serve", "one", "--address", "127.0.0.1:0"});
  EXPECT_EQ(serve.code, 1) << serve.out;
  EXPECT_THAT(serve.err, HasSubstr("weights.safetensors"));
}

}  // namespace
}  // namespace motet::testing
