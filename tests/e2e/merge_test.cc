// SPDX-License-Identifier: Apache-2.0
// Models that were trained elsewhere: two owners import branches of the base,
// a merge of both answers, is exact without either, and exports as the base's
// own architecture.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>

#include "tests/harness/federation.h"

namespace motet::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;
using nlohmann::json;

constexpr char kCode[] = "code.example/tuned@1.0.0";
constexpr char kLaw[] = "law.example/tuned@2.1.0";
constexpr char kTensor[] = "model.layers.0.mlp.up_proj.weight";

// Changes one F32 tensor of a safetensors file in place.
void Change(const std::string& path, const std::string& tensor,
            const std::function<float(float, size_t)>& change) {
  std::string bytes = ReadText(path);
  uint64_t header = 0;
  memcpy(&header, bytes.data(), sizeof header);
  const json table = json::parse(bytes.substr(8, header));
  ASSERT_TRUE(table.contains(tensor)) << tensor;
  ASSERT_EQ(table[tensor]["dtype"], "F32");
  const size_t from = table[tensor]["data_offsets"][0];
  const size_t to = table[tensor]["data_offsets"][1];
  for (size_t at = from; at < to; at += sizeof(float)) {
    float value;
    memcpy(&value, bytes.data() + 8 + header + at, sizeof value);
    value = change(value, at);
    memcpy(bytes.data() + 8 + header + at, &value, sizeof value);
  }
  WriteText(path, bytes);
}

class MergeE2e : public ::testing::Test {
 protected:
  void SetUp() override {
    federation_.Start();
    federation_.Join("code");
    federation_.Join("law");
  }
  // The base as somebody's fine-tuned Hugging Face folder.
  std::string Branch(const std::string& name, float factor) {
    const std::string folder = federation_.Path(name);
    fs::create_directories(folder);
    const std::string base = federation_.home() + "/base/";
    fs::copy_file(base + "config.json", folder + "/config.json");
    fs::copy_file(base + "tokenizer.json", folder + "/tokenizer.json");
    fs::copy_file(base + "weights.safetensors", folder + "/model.safetensors");
    Change(folder + "/model.safetensors", kTensor,
           [&](float x, size_t) { return x * factor; });
    return folder;
  }
  std::vector<std::string> ImportOf(const std::string& folder,
                                    const std::string& as,
                                    const std::string& owner) {
    return {"expert", "import", folder, "--as", as, "--node",
            federation_.Node(owner), "--licence", "MIT"};
  }
  std::string Refusal(const std::vector<std::string>& arguments) {
    const Result result = federation_.Motet(arguments);
    EXPECT_NE(result.code, 0) << result.out;
    return result.err;
  }
  std::string Recipe(const std::string& name, const std::string& text) {
    const std::string path = federation_.Path(name + ".toml");
    WriteText(path, "name = \"soup\"\nmethod = \"merge\"\nexperts = "
                    "[\"code.example/tuned\", \"law.example/tuned\"]\n" +
                        text);
    return path;
  }
  std::string Answer(std::vector<std::string> more) {
    std::vector<std::string> all = {"generate", "soup",         "--prompt",
                                    "the river", "--max-tokens", "12"};
    all.insert(all.end(), more.begin(), more.end());
    return federation_.MustMotet(all).out;
  }
  Federation federation_;
};

TEST_F(MergeE2e, ImportedMergedServedExported) {
  const std::string code = Branch("code-tuned", 3);
  const std::string law = Branch("law-tuned", -4);
  federation_.MustMotet(ImportOf(code, "code.example/tuned", "code"));
  std::vector<std::string> arguments = ImportOf(law, kLaw, "law");
  arguments.insert(arguments.end(),
                   {"--domain", "law", "--forbid-purpose", "advertising"});
  federation_.MustMotet(arguments);
  EXPECT_THAT(federation_.Packages(),
              UnorderedElementsAre("demo/base@1.0.0", kCode, kLaw));
  EXPECT_THAT(federation_.MustMotet({"expert", "show", kCode}).out,
              HasSubstr("dense"));

  // What is no branch of the base, or another's name, is refused by name.
  EXPECT_THAT(Refusal(ImportOf(code, "law.example/stolen", "code")),
              HasSubstr("an owner publishes under its own name only"));
  Change(law + "/model.safetensors", kTensor, [](float, size_t) {
    return std::numeric_limits<float>::quiet_NaN();
  });
  EXPECT_THAT(Refusal(ImportOf(law, "law.example/broken", "law")),
              HasSubstr(std::string("NaN or infinity in ") + kTensor));
  json config = json::parse(ReadText(code + "/config.json"));
  config["rope_theta"] = 777.0;
  if (config.contains("rope_parameters")) {
    config["rope_parameters"]["rope_theta"] = 777.0;
  }
  WriteText(code + "/config.json", config.dump());
  EXPECT_THAT(Refusal(ImportOf(code, "code.example/other", "code")),
              HasSubstr("RoPE theta is 777"));

  // A merge that cannot be leaves nothing behind.
  EXPECT_THAT(Refusal({"compose", "apply",
                       Recipe("bad", "[merge]\nkind = \"ties\"\ndensity = 2\n"
                              "weights = [1]\n")}),
              ::testing::AllOf(HasSubstr("merge.density = 2"),
                               HasSubstr("1 merge.weights")));
  EXPECT_FALSE(fs::exists(federation_.home() + "/compositions/soup"));
  const std::string recipe = Recipe("linear", "[merge]\nkind = \"linear\"\n");
  EXPECT_THAT(federation_.MustMotet({"compose", "plan", recipe}).out,
              ::testing::AllOf(HasSubstr("merge linear"),
                               HasSubstr("exclusion    exact"),
                               HasSubstr("purpose advertising")));
  federation_.MustMotet({"compose", "apply", recipe});
  const std::string folder = federation_.home() + "/compositions/soup";
  const std::string weights = ReadText(folder + "/weights.safetensors");
  EXPECT_THAT(federation_.MustMotet({"compose", "apply", recipe}).out,
              HasSubstr("unchanged"));
  EXPECT_THAT(federation_.MustMotet({"compose", "show", "soup"}).out,
              HasSubstr("merge linear"));

  // One that was killed leaves a folder; the result that was there answers,
  // and the next one replaces it whole.
  fs::create_directories(federation_.home() + "/compositions/.soup.partial");
  WriteText(federation_.home() + "/compositions/.soup.partial/motet.lock",
            "rubbish");
  const std::string all = Answer({"--offline"});
  const std::string slerp =
      Recipe("slerp", "[merge]\nkind = \"slerp\"\nt = 0.25\n");
  EXPECT_THAT(federation_.MustMotet({"compose", "apply", slerp}).out,
              HasSubstr("replaced"));
  EXPECT_TRUE(ReadText(folder + "/weights.safetensors") != weights);
  federation_.MustMotet({"compose", "apply", recipe});
  EXPECT_TRUE(ReadText(folder + "/weights.safetensors") == weights);
  EXPECT_FALSE(fs::exists(federation_.home() + "/compositions/.soup.partial"));

  // Every set has its own weights; licences decide as elsewhere.
  EXPECT_EQ(Answer({}), all);
  const json proofs = federation_.Json({"eval", "exclusion", "soup"});
  ASSERT_EQ(proofs.size(), 2u);
  for (const json& proof : proofs) {
    EXPECT_EQ(proof["equal"], true) << proof;
    EXPECT_NE(proof["included_sha256"], proof["excluded_sha256"]);
  }
  const json without = federation_.Json(
      {"generate", "soup", "--prompt", "the river", "--max-tokens", "4",
       "--purpose", "advertising"});
  EXPECT_EQ(without["motet"]["experts"], json({"demo/base@1.0.0", kCode}));
  const Result no_room = federation_.Motet(
      {"generate", "soup", "--prompt", "a", "--max-tokens", "4", "--exclude",
       "law", "--merge-memory", "0"});
  EXPECT_EQ(no_room.code, 1);
  EXPECT_THAT(no_room.err,
              ::testing::AllOf(HasSubstr("got no weights without"),
                               HasSubstr(kLaw)));
  const Result active = federation_.Motet(
      {"generate", "soup", "--prompt", "a", "--max-tokens", "4", "--active",
       "1"});
  EXPECT_EQ(active.code, 2);
  EXPECT_THAT(active.err, HasSubstr("this model's experts are merged"));

  // Text of the domains, and the export.
  const std::string data = federation_.Path("text.jsonl");
  WriteText(data, Sentences("code", 30, 5));
  const json perplexity =
      federation_.Json({"eval", "perplexity", "soup", "--data", data,
                        "--window", "64"});
  EXPECT_GT(perplexity["perplexity"], 1.0);
  const json matrix = federation_.Json({"eval", "matrix", "soup", "--domain",
                                        "code=" + data, "--window", "64"});
  EXPECT_EQ(matrix["models"],
            json({"base", "only tuned", "only law", "composition",
                  "without tuned", "without law"}));
  const double only = matrix["values"][1][0], left = matrix["values"][5][0];
  EXPECT_EQ(only, left);  // two models: one alone is without the other
  const std::string out = federation_.Path("exported");
  const json report = federation_.Json(
      {"compose", "export", "soup", "--format", "hf", "--out", out});
  const json exported = json::parse(ReadText(out + "/config.json"));
  EXPECT_EQ(report["architecture"], exported["architectures"][0]);
  EXPECT_EQ(federation_
                .MustMotet({"generate", out, "--prompt", "the river",
                            "--max-tokens", "12"})
                .out,
            all);
}

}  // namespace
}  // namespace motet::testing
