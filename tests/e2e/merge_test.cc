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

// The FFNs' rows of an F32 model, `ffn_width` of them instead of what there
// is: further ones are zeros, as a model that was made wider by hand has.
void Widen(const std::string& folder, int64_t ffn_width) {
  const std::string path = folder + "/model.safetensors";
  const std::string bytes = ReadText(path);
  uint64_t header = 0;
  memcpy(&header, bytes.data(), sizeof header);
  const json table = json::parse(bytes.substr(8, header));
  json made;
  std::string data;
  for (const auto& [name, entry] : table.items()) {
    if (name == "__metadata__") continue;
    const size_t from = entry["data_offsets"][0];
    const size_t to = entry["data_offsets"][1];
    std::string old = bytes.substr(8 + header + from, to - from);
    json shape = entry["shape"];
    const bool down = name.find(".mlp.down") != std::string::npos;
    if (down) {
      const size_t row = shape[1].get<size_t>() * sizeof(float);
      std::string wide;
      for (size_t at = 0; at < old.size(); at += row) {
        wide += old.substr(at, row);
        wide.append((ffn_width - shape[1].get<int64_t>()) * sizeof(float), 0);
      }
      old = wide;
      shape[1] = ffn_width;
    } else if (name.find(".mlp.") != std::string::npos) {
      old.resize(ffn_width * shape[1].get<int64_t>() * sizeof(float), 0);
      shape[0] = ffn_width;
    }
    made[name] = {{"dtype", "F32"},
                  {"shape", shape},
                  {"data_offsets", {data.size(), data.size() + old.size()}}};
    data += old;
  }
  std::string text = made.dump();
  text.resize((text.size() + 63) / 64 * 64 - 8 + 64, ' ');
  const uint64_t length = text.size();
  std::string all(reinterpret_cast<const char*>(&length), sizeof length);
  WriteText(path, all + text + data);
  json config = json::parse(ReadText(folder + "/config.json"));
  config["intermediate_size"] = ffn_width;
  WriteText(folder + "/config.json", config.dump());
}

class MergeE2e : public ::testing::Test {
 protected:
  void SetUp() override {
    federation_.Start();
    federation_.Join("code");
    federation_.Join("law");
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
  const std::string code = federation_.MakeBranch("code-tuned", 3);
  const std::string law = federation_.MakeBranch("law-tuned", -4);
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
  ChangeTensor(law + "/model.safetensors", kTunedTensor, [](float, size_t) {
    return std::numeric_limits<float>::quiet_NaN();
  });
  EXPECT_THAT(Refusal(ImportOf(law, "law.example/broken", "law")),
              HasSubstr(std::string("NaN or infinity in ") + kTunedTensor));
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

TEST_F(MergeE2e, OtherKindsAreImportedAndWhatIsNoBranchIsNot) {
  const auto with = [](std::vector<std::string> arguments,
                       const std::string& kind) {
    arguments.insert(arguments.end(), {"--kind", kind});
    return arguments;
  };
  const std::string tuned = federation_.MakeBranch("tuned", 3);
  federation_.MustMotet(
      with(ImportOf(tuned, "code.example/voices", "code"), "attention_ffn"));
  EXPECT_THAT(
      federation_.MustMotet({"expert", "show", "code.example/voices@1.0.0"})
          .out,
      HasSubstr("attention_ffn"));
  const Result unknown = federation_.Motet(
      with(ImportOf(tuned, "code.example/x", "code"), "ffn"));
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("attention_ffn"));

  // Config and tensors that do not belong together.
  const std::string torn = federation_.MakeBranch("torn", 3);
  json config = json::parse(ReadText(torn + "/config.json"));
  config["intermediate_size"] = 80;
  WriteText(torn + "/config.json", config.dump());
  EXPECT_THAT(Refusal(with(ImportOf(torn, "code.example/x", "code"), "sized")),
              ::testing::AllOf(HasSubstr("tensors that do not fit config.json"),
                               HasSubstr(kTunedTensor)));
  // A wider one is sized, not dense; it answers as it did before.
  const std::string wide = federation_.MakeBranch("wide", 1);
  Widen(wide, 80);
  EXPECT_THAT(Refusal(ImportOf(wide, "code.example/x", "code")),
              HasSubstr("FFN width is 80, want 64"));
  federation_.MustMotet(
      with(ImportOf(wide, "code.example/wide", "code"), "sized"));
  const json shown =
      federation_.Json({"expert", "show", "code.example/wide@1.0.0"});
  EXPECT_EQ(shown["kind"], "sized");
  EXPECT_EQ(shown["model"]["ffn_width"], 80);
  EXPECT_EQ(shown["tensors"].size(), 6u);  // the FFNs alone

  // Another tokenizer, and one tensor that is NaN throughout.
  const std::string other = federation_.MakeBranch("other", 2);
  json tokenizer = json::parse(ReadText(other + "/tokenizer.json"));
  json& vocabulary = tokenizer["model"]["vocab"];
  ASSERT_TRUE(vocabulary.contains("a") && vocabulary.contains("b"));
  std::swap(vocabulary["a"], vocabulary["b"]);
  WriteText(other + "/tokenizer.json", tokenizer.dump());
  EXPECT_THAT(Refusal(ImportOf(other, "code.example/x", "code")),
              ::testing::AllOf(HasSubstr("tokenizer.json"),
                               HasSubstr("another tokenizer")));
  const std::string nan = federation_.MakeBranch("nan", 1);
  constexpr char kNorm[] = "model.layers.1.post_attention_layernorm.weight";
  ChangeTensor(nan + "/model.safetensors", kNorm, [](float, size_t) {
    return std::numeric_limits<float>::quiet_NaN();
  });
  EXPECT_THAT(Refusal(ImportOf(nan, "code.example/x", "code")),
              ::testing::AllOf(HasSubstr(nan), HasSubstr(kNorm)));
  EXPECT_THAT(federation_.Packages(),
              UnorderedElementsAre("demo/base@1.0.0",
                                   "code.example/voices@1.0.0",
                                   "code.example/wide@1.0.0"));
}

// The same models kept apart: they answer together, exact without either, and
// the plan, the licences and the measures are those of every composition.
TEST_F(MergeE2e, AnEnsembleAnswersInPlaceOfAMerge) {
  const std::string code = federation_.MakeBranch("code-tuned", 3);
  federation_.MustMotet(ImportOf(code, "code.example/tuned", "code"));
  std::vector<std::string> law =
      ImportOf(federation_.MakeBranch("law-tuned", -4), kLaw, "law");
  law.insert(law.end(), {"--domain", "law", "--forbid-purpose", "advertising"});
  federation_.MustMotet(law);
  federation_.MustMotet(
      {"compose", "apply", Recipe("soup", "[merge]\nkind = \"linear\"\n")});
  const std::string merged = Answer({});
  const std::string recipe = federation_.Path("together.toml");
  const std::string text =
      "name = \"soup\"\nmethod = \"ensemble\"\nexperts = "
      "[\"code.example/tuned\", \"law.example/tuned\"]\n[ensemble]\n";
  WriteText(recipe, text + "weights = \"uniform\"\ntop_k = 3\n");
  EXPECT_THAT(Refusal({"compose", "apply", recipe}),
              ::testing::AllOf(HasSubstr("ensemble.top_k = 3"),
                               HasSubstr("all weights are alike")));
  EXPECT_EQ(Answer({}), merged);  // what was there
  WriteText(recipe, text + "top_k = 2\n");
  EXPECT_THAT(federation_.MustMotet({"compose", "plan", recipe}).out,
              ::testing::AllOf(HasSubstr("ensemble by bayes weights, top 2"),
                               HasSubstr("exclusion    exact"),
                               HasSubstr("purpose advertising")));
  EXPECT_THAT(federation_.MustMotet({"compose", "apply", recipe}).out,
              ::testing::AllOf(HasSubstr("ensemble by bayes weights, top 2"),
                               HasSubstr("replaced")));
  EXPECT_FALSE(fs::exists(federation_.home() +
                          "/compositions/soup/weights.safetensors"));
  const json proofs = federation_.Json({"eval", "exclusion", "soup"});
  ASSERT_EQ(proofs.size(), 2u);
  for (const json& proof : proofs) {
    EXPECT_EQ(proof["equal"], true) << proof;
    EXPECT_NE(proof["included_sha256"], proof["excluded_sha256"]);
  }
  const json without =
      federation_.Json({"generate", "soup", "--prompt", "the river",
                        "--max-tokens", "4", "--purpose", "advertising"});
  EXPECT_EQ(without["motet"]["experts"], json({"demo/base@1.0.0", kCode}));
  const std::string data = federation_.Path("text.jsonl");
  WriteText(data, Sentences("code", 30, 5));
  const json matrix = federation_.Json(
      {"eval", "matrix", "soup", "--domain", "code=" + data, "--window", "64"});
  EXPECT_EQ(matrix["models"],
            json({"base", "only tuned", "only law", "composition",
                  "without tuned", "without law"}));
  EXPECT_EQ(matrix["values"][1][0], matrix["values"][5][0]);
  const Result exported =
      federation_.Motet({"compose", "export", "soup", "--format", "hf", "--out",
                         federation_.Path("exported")});
  EXPECT_NE(exported.code, 0);
  EXPECT_THAT(exported.err, HasSubstr("2 whole models; want one"));
  // A prior from a file beside the recipe; the lock keeps it, and an expert
  // less leaves the other's numbers as they were.
  WriteText(federation_.Path("held-out.jsonl"), Sentences("code", 6, 9));
  WriteText(recipe, text + "weights = \"prior\"\n");
  EXPECT_THAT(Refusal({"compose", "apply", recipe}), HasSubstr("prior_text"));
  WriteText(recipe, text + "prior_text = \"missing.jsonl\"\n");
  EXPECT_THAT(Refusal({"compose", "apply", recipe}),
              HasSubstr("missing.jsonl"));
  WriteText(recipe, text + "prior_text = \"held-out.jsonl\"\n");
  EXPECT_THAT(federation_.MustMotet({"compose", "apply", recipe}).out,
              HasSubstr("bayes weights from a learnt prior"));
  EXPECT_THAT(federation_.MustMotet({"compose", "apply", recipe}).out,
              HasSubstr("unchanged"));
  const std::string path = federation_.home() + "/compositions/soup/motet.lock";
  const json both = json::parse(ReadText(path));
  ASSERT_EQ(both["ensemble"]["prior"]["experts"].size(), 2u);
  federation_.MustMotet({"compose", "rm", "soup", "law.example/tuned"});
  const json one = json::parse(ReadText(path));
  EXPECT_EQ(one["ensemble"]["prior"]["experts"],
            json::array({both["ensemble"]["prior"]["experts"][0]}));
  WriteText(recipe, text + "top_k = 2\n");
  federation_.MustMotet({"compose", "apply", recipe});
  // Two models of which one has to go want another top_k.
  EXPECT_THAT(Refusal({"compose", "rm", "soup", "law.example/tuned"}),
              HasSubstr("ensemble.top_k = 2, want at most 1"));
}

// Branches that nodes trained compose as imported ones do.
TEST_F(MergeE2e, NodesTrainBranchesAndAMergeAnswers) {
  federation_.StartNode("code");
  federation_.StartNode("law");
  federation_.Offer({"branches", "1.0.0", 20, 5,
                     "kind = \"dense\"\nexpert_name = \"tuned\"\n"
                     "fisher = true\n"});
  ASSERT_TRUE(WaitUntil("jobs of both nodes", [&] {
    return federation_.Json({"train", "status", "branches"})["jobs"].size() ==
           2;
  }));
  ASSERT_NO_FATAL_FAILURE(federation_.AwaitPublished("branches"));
  const json shown =
      federation_.Json({"expert", "show", "law.example/tuned@1.0.0"});
  EXPECT_EQ(shown["kind"], "dense");
  EXPECT_EQ(shown["domain"]["anchored"]["layers"].size(), 2u);
  federation_.MustMotet(
      {"compose", "apply", Recipe("soup", "[merge]\nkind = \"linear\"\n")});
  EXPECT_NE(Answer({}), Answer({"--exclude", "law"}));
  const std::string merged =
      federation_.home() + "/compositions/soup/weights.safetensors";
  const std::string linear = ReadText(merged);
  federation_.MustMotet(
      {"compose", "apply", Recipe("soup", "[merge]\nkind = \"fisher\"\n")});
  EXPECT_TRUE(ReadText(merged) != linear);
}

}  // namespace
}  // namespace motet::testing
