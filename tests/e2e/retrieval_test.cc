// SPDX-License-Identifier: Apache-2.0
// motet eval retrieval, index and search as processes, on an encoder and a BEIR
// folder that the test writes itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "nlohmann/json.hpp"
#include "tests/harness/encoder_directory.h"
#include "tests/harness/process.h"

namespace motet::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class RetrievalTest : public ::testing::Test {
 protected:
  RetrievalTest() : folder_(NewFolder("retrieval")) {
    WriteEncoderDirectory(Path("encoder"));
    std::filesystem::create_directories(Path("data/qrels"));
    std::string corpus, queries, qrels = "query-id\tcorpus-id\tscore\n";
    const char* const texts[] = {"salt water of the sea", "a river runs down",
                                 "law of the land", "sorting numbers",
                                 "the heart and the blood"};
    for (int i = 0; i < 5; ++i) {
      const std::string n = std::to_string(i);
      corpus += json{{"_id", "d" + n},
                     {"title", ""},
                     {"text", texts[i]},
                     {"metadata", {{"parity", i % 2}}}}
                    .dump() +
                "\n";
      queries += json{{"_id", "q" + n}, {"text", texts[i]}}.dump() + "\n";
      qrels += "q" + n + "\td" + n + "\t1\n";
    }
    // Longer than the encoder takes; and one that says nothing.
    std::string text;
    for (int i = 0; i < 60; ++i) text += "z ";
    corpus += json{{"_id", "long"}, {"text", text}}.dump() + "\n" +
              json{{"_id", "none"}, {"text", " "}}.dump() + "\n";
    WriteText(Path("data/corpus.jsonl"), corpus);
    WriteText(Path("data/queries.jsonl"), queries);
    WriteText(Path("data/qrels/test.tsv"), qrels);
  }
  ~RetrievalTest() override {
    if (!HasFailure()) std::filesystem::remove_all(folder_);
  }
  std::string Path(const std::string& below) const {
    return folder_ + "/" + below;
  }
  Result Motet(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), Program("motet"));
    return motet::testing::Run(arguments, folder_, kEnvironment);
  }
  json Json(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(), {"-o", "json"});
    const Result result = Motet(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return json::parse(result.out, nullptr, false);
  }
  std::vector<std::string> Eval(std::vector<std::string> more) const {
    std::vector<std::string> all = {"eval", "retrieval", Path("encoder"),
                                    "--data", Path("data")};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  inline static const Environment kEnvironment = {
      {"OMP_WAIT_POLICY", "passive"}, {"OMP_NUM_THREADS", "1"}};
  std::string folder_;
};

TEST_F(RetrievalTest, EvaluatesEveryMode) {
  for (const char* mode : {"dense", "bm25", "fusion"}) {
    const json score = Json(Eval({"--mode", mode, "--run", Path("run")}));
    EXPECT_EQ(score["ndcg@10"], 1) << mode;  // a text finds itself
    EXPECT_EQ(score["mrr@10"], 1) << mode;
    EXPECT_EQ(score["recall@100"], 1) << mode;
    EXPECT_EQ(score["queries"].size(), 5u);
    EXPECT_EQ(score["queries"][3]["query"], "q3");
    EXPECT_EQ(score["empty_documents"], 1);
    EXPECT_EQ(score["cut_documents"], std::string(mode) == "bm25" ? 0 : 1);
    const std::string run = ReadText(Path("run"));
    EXPECT_THAT(run, HasSubstr("q0 Q0 d0 1 "));
    EXPECT_THAT(run, ::testing::Not(
                         HasSubstr(" none ")));  // says nothing, is not found
  }
  const Result text = Motet(Eval({}));
  EXPECT_THAT(text.out, HasSubstr("nDCG@10 1.0000"));
  EXPECT_THAT(text.err, HasSubstr("cut at 48 tokens: 1 documents"));
}

TEST_F(RetrievalTest, WrongInputsAreNamed) {
  EXPECT_EQ(
      Motet({"eval", "retrieval", "--data", Path("data"), "--mode", "bm25"})
          .code,
      0);
  const Result none = Motet({"eval", "retrieval", "--data", Path("data")});
  EXPECT_EQ(none.code, 2);
  EXPECT_THAT(none.err, HasSubstr("--mode bm25"));
  const Result split = Motet(Eval({"--split", "dev"}));
  EXPECT_EQ(split.code, 1);
  EXPECT_THAT(split.err, HasSubstr("qrels/dev.tsv"));
  WriteText(Path("data/qrels/test.tsv"), "q0\td9\t1\nq0\td0\t1\n");
  const Result missing = Motet(Eval({}));
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.err, HasSubstr("test.tsv:1] got document \"d9\""));
  EXPECT_EQ(Json(Eval({"--allow-missing"}))["missing_documents"], 1);
}

TEST_F(RetrievalTest, AnIndexIsBuiltSearchedAndChanged) {
  const std::string index = Path("index");
  const json built =
      Json({"index", "build", index, "--encoder", Path("encoder"), "--data",
            Path("data/corpus.jsonl")});
  EXPECT_EQ(built["added"], 6);
  EXPECT_EQ(built["empty"], 1);
  EXPECT_EQ(built["cut"], 1);
  for (const char* mode : {"dense", "bm25", "fusion"}) {
    const json hits = Json({"search", index, "--query", "law of the land", "-k",
                            "2", "--mode", mode})["results"][0]["hits"];
    EXPECT_EQ(hits[0]["id"], "d2") << mode;
    EXPECT_EQ(hits[0]["text"], "law of the land");
  }
  EXPECT_THAT(
      Motet({"search", index, "--query", "law of the land", "-k", "1"}).out,
      HasSubstr("d2  law of the land"));
  // Odd documents alone: the best answer is not among them.
  const json odd = Json({"search", index, "--query", "law of the land", "-k",
                         "9", "--filter", "parity=1"})["results"][0]["hits"];
  EXPECT_EQ(odd.size(), 2u);
  for (const json& hit : odd) EXPECT_EQ(hit["metadata"]["parity"], "1");

  WriteText(Path("more.jsonl"), "{\"_id\": \"d9\", \"text\": \"stars\"}\n");
  EXPECT_EQ(Json({"index", "add", index, "--data", Path("more.jsonl")})["rows"],
            7);
  Json({"index", "rm", index, "d2", "d0"});
  const json info = Json({"index", "info", index, "--check"});
  EXPECT_EQ(info["documents"], 5);
  EXPECT_EQ(info["dead"], 2);
  EXPECT_EQ(info["structure"], "flat");
  EXPECT_EQ(info["fields"], json({"parity"}));
  const json hits =
      Json({"search", index, "--query", "stars"})["results"][0]["hits"];
  EXPECT_EQ(hits.size(), 5u);
  EXPECT_EQ(hits[0]["id"], "d9");
}

// JSON cannot say such a path, and says so in its place.
TEST_F(RetrievalTest, APathMayBeAnyBytes) {
  const std::string index = Path("index\xFF"), said = "index\xEF\xBF\xBD";
  const auto name = [&](std::vector<std::string> arguments) {
    const json answer = Json(std::move(arguments));
    return std::filesystem::path(answer.value("index", "")).filename().string();
  };
  EXPECT_EQ(name({"index", "build", index, "--encoder", Path("encoder"),
                  "--data", Path("data/corpus.jsonl")}),
            said);
  EXPECT_EQ(name({"index", "info", index}), said);
  EXPECT_EQ(name({"index", "rm", index, "d1"}), said);
}

TEST_F(RetrievalTest, WrongSearchesAreNamed) {
  const std::string index = Path("index");
  Json({"index", "build", index, "--encoder", Path("encoder"), "--data",
        Path("data/corpus.jsonl")});
  WriteEncoderDirectory(Path("other"), {.seed = 2});
  const struct {
    std::vector<std::string> arguments;
    int code;
    const char* says;
  } cases[] = {
      {{"search", index, "--query", "a", "-k", "0"}, 2, "1 to 1000"},
      {{"search", index}, 2, "no query"},
      {{"search", index, "--query", "a", "--filter", "colour=red"},
       2,
       "parity"},
      {{"search", index, "--query", "a", "--filter", "parity"},
       2,
       "field=value"},
      {{"search", index, "--query", "a", "--encoder", Path("other")},
       1,
       "the one it was built with"},
      {{"search", Path("data"), "--query", "a"}, 1, "index build"},
      {{"index", "rm", index, "d1", "d77"}, 1, "d77"},
      {{"index", "build", Path("data"), "--encoder", Path("encoder"), "--data",
        Path("data/corpus.jsonl")},
       1,
       "another folder"},
      {{"index", "build", index, "--encoder", Path("other"), "--data",
        Path("data/corpus.jsonl")},
       1,
       "that is there"},
  };
  for (const auto& c : cases) {
    const Result result = Motet(c.arguments);
    EXPECT_EQ(result.code, c.code) << result.err;
    EXPECT_THAT(result.err, HasSubstr(c.says));
  }
  // All or none: d1 is still there.
  EXPECT_EQ(Json({"index", "info", index})["documents"], 6);
  // A query of a megabyte is cut, and that is said.
  std::string query;
  for (int i = 0; i < 1 << 19; ++i) query += "q ";
  WriteText(Path("query"), query);
  const Result cut =
      Motet({"search", index, "--query-file", Path("query"), "-k", "1"});
  EXPECT_EQ(cut.code, 0) << cut.err;
  EXPECT_THAT(cut.err, HasSubstr("cut at 48 tokens"));
}

}  // namespace
}  // namespace motet::testing
