// SPDX-License-Identifier: Apache-2.0
// A composition of retrieval experts, as its people type it: planned, applied,
// searched with and without an owner, evaluated, given one expert more and one
// less; and what the owners published stays as it was.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/harness/encoder_directory.h"
#include "tests/harness/federation.h"

namespace motet::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr int kQueries = 8;

std::string Text(const std::string& owner, const char* what, int i) {
  return owner + " " + what + " " + static_cast<char>('a' + i) + owner;
}

class RetrievalComposeTest : public ::testing::Test {
 protected:
  RetrievalComposeTest() {
    f_.Begin();
    EncoderOptions o;
    o.width = 16;
    o.heads = 2;
    o.ffn_width = 24;
    o.layers = 1;
    WriteEncoderDirectory(f_.Path("encoder"), o);
    f_.MustMotet({"base", "import", f_.Path("encoder")});
    f_.MustMotet({"base", "publish"});
    for (const char* owner : {"sea", "law"}) Join(owner);
    for (const char* owner : {"sea", "law"}) Pilots(owner);
    WriteText(f_.Path("library.toml"),
              "name = \"library\"\nmethod = \"router_retriever\"\n"
              "experts = [\"sea.example/sea\", \"law.example/law\"]\n");
  }
  std::string Beir(const std::string& owner) const {
    const std::string folder = f_.Path("beir-" + owner);
    fs::create_directories(folder + "/qrels");
    std::string corpus, queries, judged = "query-id\tcorpus-id\tscore\n";
    for (int i = 0; i < kQueries; ++i) {
      const std::string n = owner + std::to_string(i);
      corpus +=
          json{{"_id", "d" + n}, {"text", Text(owner, "tells of", i)}}.dump() +
          "\n";
      queries +=
          json{{"_id", "q" + n}, {"text", Text(owner, "what is", i)}}.dump() +
          "\n";
      judged += "q" + n + "\td" + n + "\t1\n";
    }
    WriteText(folder + "/corpus.jsonl", corpus);
    WriteText(folder + "/queries.jsonl", queries);
    WriteText(folder + "/qrels/train.tsv", judged);
    return folder;
  }
  void Run(const std::string& id, const std::string& owner,
           const std::string& lines) {
    const std::string path = f_.Path(id + ".toml");
    WriteText(path, "id = \"" + id + "\"\nowners = [\"" + owner +
                        ".example\"]\n" + lines);
    f_.MustMotet({"train", "offer", path});
    f_.AwaitPublished(id);
  }
  // With an adapter.
  void Join(const std::string& owner) {
    f_.Join(owner, "[pilots]\nmin_queries = 2\n");
    f_.MustMotetNode(
        {"corpus", "import", "--dir", f_.Node(owner), Beir(owner)});
    f_.StartNode(owner);
    Run("train-" + owner, owner,
        "kind = \"embedding_adapter\"\nrank = 2\nalpha = 8\nsteps = 3\n"
        "batch = 4\nlearning_rate = 1e-2\n");
  }
  void Pilots(const std::string& owner) {
    Run("pilots-" + owner, owner, "kind = \"pilots\"\n");
  }
  json Lock() const { return f_.Json({"compose", "show", "library"}); }
  Federation f_;
};

TEST_F(RetrievalComposeTest, FromRecipeToSearchAndBack) {
  const json plan = f_.Json({"compose", "plan", f_.Path("library.toml")});
  EXPECT_THAT(plan["problems"], SizeIs(0));
  f_.MustMotet({"compose", "apply", f_.Path("library.toml")});
  const json lock = Lock();
  EXPECT_EQ(lock["exclusion"], "exact");
  ASSERT_THAT(lock["retriever"]["pilots"], SizeIs(2));
  EXPECT_EQ(lock["retriever"]["pilots"][0]["id"],
            "sea.example/pilots-sea@1.0.0");
  EXPECT_THAT(f_.MustMotet({"compose", "show", "library"}).out,
              HasSubstr("law.example/pilots-law@1.0.0"));
  EXPECT_THAT(f_.MustMotet({"compose", "apply", f_.Path("library.toml")}).out,
              HasSubstr("unchanged"));
  // It finds documents and writes none.
  EXPECT_THAT(f_.Motet({"generate", "library", "--prompt", "a"}).err,
              HasSubstr("motet search INDEX --composition library"));

  const std::string index = f_.Path("index");
  f_.MustMotet({"index", "build", index, "--encoder", f_.home() + "/base",
                "--data", f_.Path("beir-sea/corpus.jsonl")});
  const auto search = [&](std::vector<std::string> more) {
    std::vector<std::string> all = {"search",  index,
                                    "--query", Text("sea", "what is", 3),
                                    "--query", Text("law", "what is", 2)};
    all.insert(all.end(), more.begin(), more.end());
    return f_.Json(all)["results"];
  };
  const json all = search({"--composition", "library"});
  for (const json& one : all) {
    EXPECT_THAT(one["hits"], SizeIs(8));
    EXPECT_THAT(one["expert"].get<std::string>(),
                AnyOf("sea.example/sea@1.0.0", "law.example/law@1.0.0"));
  }
  const json without =
      search({"--composition", "library", "--exclude", "law.example"});
  for (const json& one : without) {
    EXPECT_THAT(one["expert"].get<std::string>(),
                AnyOf("sea.example/sea@1.0.0", ""));
  }
  // Without anyone, what the encoder alone finds.
  const json base = search({});
  const json none = search({"--composition", "library", "--exclude",
                            "law.example", "--exclude", "sea.example"});
  for (size_t q = 0; q < 2; ++q) {
    EXPECT_EQ(none[q]["expert"], "");
    EXPECT_EQ(none[q]["hits"], base[q]["hits"]);
  }
  EXPECT_THAT(f_.Motet({"search", index, "--composition", "library", "--query",
                        "a", "--exclude", "nobody.example"})
                  .err,
              HasSubstr("nobody.example"));

  // Whoever is left out leaves no trace, by the command that says so.
  const json proofs =
      f_.Json({"eval", "exclusion", "library", "--index", index, "--data",
               f_.Path("beir-law"), "--split", "train"});
  ASSERT_THAT(proofs, SizeIs(3));
  for (const json& proof : proofs) {
    EXPECT_EQ(proof["equal"], true);
    EXPECT_EQ(proof["excluded_sha256"], proof["never_composed_sha256"]);
    EXPECT_EQ(proof["queries"], kQueries);
  }
  EXPECT_EQ(proofs[2]["without"],
            json({"sea.example/sea@1.0.0", "law.example/law@1.0.0"}));
  EXPECT_NE(proofs[2]["excluded_sha256"], proofs[2]["included_sha256"]);
  EXPECT_THAT(f_.MustMotet({"eval", "exclusion", "library", "--index", index,
                            "--prompt", "what is", "--expert", "law"})
                  .out,
              HasSubstr("law.example/law@1.0.0: equal, bit for bit"));
  EXPECT_THAT(f_.Motet({"eval", "exclusion", "library", "--prompt", "a"}).err,
              HasSubstr("no --index"));

  const json score = f_.Json({"eval", "retrieval", "library", "--data",
                              f_.Path("beir-sea"), "--split", "train"});
  EXPECT_THAT(score["queries"], SizeIs(kQueries));
  for (const json& query : score["queries"]) {
    EXPECT_TRUE(query.contains("expert"));
  }
  EXPECT_THAT(f_.MustMotet({"eval", "retrieval", "library", "--data",
                            f_.Path("beir-sea"), "--split", "train"})
                  .out,
              HasSubstr("answered: "));

  // One owner more, then one less.
  Join("art");
  Pilots("art");
  const json added = f_.Json({"compose", "add", "library", "art.example/art"});
  EXPECT_EQ(added["changes"]["added"], json({"art.example/art@1.0.0"}));
  const json three = Lock();
  ASSERT_THAT(three["retriever"]["pilots"], SizeIs(3));
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(three["retriever"]["pilots"][i], lock["retriever"]["pilots"][i]);
  }
  const std::string three_without =
      search({"--composition", "library", "--exclude", "art.example"}).dump();
  EXPECT_EQ(three_without, all.dump());  // as if it had never come
  f_.MustMotet({"compose", "rm", "library", "art.example/art"});
  EXPECT_EQ(Lock(), lock);

  // What is revoked answers nothing, and is not composed again.
  f_.MustMotet(
      {"expert", "revoke", "law.example/law@1.0.0", "--reason", "withdrawn"});
  const json after = search({"--composition", "library"});
  for (size_t q = 0; q < 2; ++q) {
    EXPECT_EQ(after[q].dump(), without[q].dump());
  }
}

// From the owners' nodes, which measure how far their pilots reach, to a query
// that none reaches.
TEST_F(RetrievalComposeTest, AGateLeavesFarQueriesToTheBase) {
  const std::string recipe = f_.Path("gated.toml");
  WriteText(recipe,
            "name = \"gated\"\nmethod = \"router_retriever\"\n"
            "experts = [\"sea.example/sea\", \"law.example/law\"]\n"
            "[retriever]\ngate = true\n");
  f_.MustMotet({"compose", "apply", recipe});
  EXPECT_THAT(f_.MustMotet({"compose", "show", "gated"}).out,
              HasSubstr("of each expert's, gated"));
  const std::string index = f_.Path("index");
  f_.MustMotet({"index", "build", index, "--encoder", f_.home() + "/base",
                "--data", f_.Path("beir-sea/corpus.jsonl")});
  const auto expert = [&](const std::string& query) {
    return f_.Json({"search", index, "--composition", "gated", "--query",
                    query})["results"][0]["expert"]
        .get<std::string>();
  };
  EXPECT_NE(expert(Text("sea", "what is", 3)), "");  // a pilot is of it
  EXPECT_EQ(expert("0 1 2 3 4 5 6 7 8 9 ( ) + - 0 1 2 3 4 5 6 7 8 9"), "");
  const json proofs =
      f_.Json({"eval", "exclusion", "gated", "--index", index, "--data",
               f_.Path("beir-law"), "--split", "train"});
  for (const json& proof : proofs) EXPECT_EQ(proof["equal"], true);
}

}  // namespace
}  // namespace motet::testing
