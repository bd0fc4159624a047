// SPDX-License-Identifier: Apache-2.0
// BEIR folders: what is read, and every way in which one can be wrong, named
// by file and line.
#include "compose/retrieve/beir.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compose/retrieve/folder_fixture.h"

namespace motet::retrieve {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

class BeirTest : public FolderTest {
 protected:
  BeirTest() {
    std::filesystem::create_directories(folder_ + "/qrels");
    Write("corpus.jsonl",
          "{\"_id\": \"a\", \"title\": \"Sea\", \"text\": \"salt water\"}\n"
          "\n"
          "{\"_id\": \"b\", \"text\": \"a river\", \"metadata\": "
          "{\"year\": 1999, \"kind\": \"note\", \"open\": true, "
          "\"none\": null}}\n"
          "{\"_id\": \"c\", \"title\": \" \", \"text\": \"\"}\n");
    Write("queries.jsonl",
          "{\"_id\": \"q2\", \"text\": \"what is salt\"}\n"
          "{\"_id\": \"q0\", \"text\": \"\"}\n"
          "{\"_id\": \"q1\", \"text\": \"running water\"}\n");
    Write("qrels/test.tsv",
          "query-id\tcorpus-id\tscore\nq1\tb\t2\nq1\ta\t0\nq2\ta\t1\r\n");
  }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << text;
  }
  absl::StatusOr<BeirSet> Read(const BeirOptions& options = {}) const {
    return ReadBeir(folder_, options);
  }
  std::string Refusal(const BeirOptions& options = {}) const {
    const auto set = Read(options);
    EXPECT_FALSE(set.ok());
    return std::string(set.status().message());
  }
};

TEST_F(BeirTest, ReadsWhatIsJudged) {
  const auto set = Read();
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->documents.size(), 3u);
  EXPECT_EQ(TextOf(set->documents[0]), "Sea salt water");
  EXPECT_EQ(TextOf(set->documents[1]), "a river");
  EXPECT_THAT(set->documents[1].metadata,
              ElementsAre(Pair("kind", "note"), Pair("open", "true"),
                          Pair("year", "1999")));
  EXPECT_EQ(set->empty_documents, 1);
  ASSERT_EQ(set->queries.size(), 2u);  // q0 is not judged
  EXPECT_EQ(set->queries[0].id, "q2");
  EXPECT_EQ(set->queries[1].text, "running water");
  EXPECT_THAT(set->judgements.at("q1"),
              ElementsAre(Pair("a", 0), Pair("b", 2)));
}

TEST_F(BeirTest, NamesFileAndLineOfWhatIsWrong) {
  const struct {
    const char* file;
    const char* text;
    const char* where;
    const char* says;
  } cases[] = {
      {"corpus.jsonl", "{\"_id\": \"a\", \"text\": \"x\"}\n\nno\n",
       "corpus.jsonl:3]", "JSON"},
      {"corpus.jsonl", "{\"_id\": \"a\"}\n", "corpus.jsonl:1]", "\"text\""},
      {"corpus.jsonl", "{\"text\": \"x\"}\n", "corpus.jsonl:1]", "\"_id\""},
      {"corpus.jsonl", "[1]\n", "corpus.jsonl:1]", "no object"},
      {"corpus.jsonl", "{\"_id\": \"a b\", \"text\": \"x\"}\n",
       "corpus.jsonl:1]", "white space"},
      {"corpus.jsonl",
       "{\"_id\": \"a\", \"text\": \"x\"}\n{\"_id\": \"b\", \"text\": \"\"}\n"
       "{\"_id\": \"a\", \"text\": \"y\"}\n",
       "corpus.jsonl:3]", "first on line 1"},
      {"corpus.jsonl", "{\"_id\": \"a\", \"text\": \"x\", \"title\": 3}\n",
       "corpus.jsonl:1]", "\"title\""},
      {"corpus.jsonl", "{\"_id\": \"a\", \"text\": \"x\", \"metadata\": []}\n",
       "corpus.jsonl:1]", "metadata"},
      {"corpus.jsonl",
       "{\"_id\": \"a\", \"text\": \"x\", \"metadata\": {\"f\": [1]}}\n",
       "corpus.jsonl:1]", "\"f\": array"},
      {"corpus.jsonl",
       "{\"_id\": \"a\", \"text\": \"x\", \"metadata\": {\"f=\": 1}}\n",
       "corpus.jsonl:1]", "without \"=\""},
      {"corpus.jsonl", "{\"_id\": \"a\", \"_id\": \"b\", \"text\": \"x\"}\n",
       "corpus.jsonl:1]", "_id"},
      {"queries.jsonl",
       "{\"_id\": \"q1\", \"text\": \"x\"}\n"
       "{\"_id\": \"q1\", \"text\": \"y\"}\n",
       "queries.jsonl:2]", "first on line 1"},
      {"queries.jsonl",
       "{\"_id\": \"q1\", \"text\": \" \"}\n"
       "{\"_id\": \"q2\", \"text\": \"y\"}\n",
       "queries.jsonl:1]", "without text"},
      {"qrels/test.tsv", "query-id\tcorpus-id\tscore\nq9\ta\t1\n",
       "test.tsv:2]", "\"q9\""},
      {"qrels/test.tsv", "q1\tz\t1\nq1\ta\t1\nq1\ty\t1\n", "test.tsv:1]",
       "\"z\", the first of 2"},
      {"qrels/test.tsv", "q1\ta\t1\nq1\ta\t1\n", "test.tsv:2]", "again"},
      {"qrels/test.tsv", "q1\ta\tgood\n", "test.tsv:1]", "whole number"},
      {"qrels/test.tsv", "q1 a 1\n", "test.tsv:1]", "tabs"},
      {"qrels/test.tsv", "query-id\tcorpus-id\tscore\n", "test.tsv]",
       "no judgement"},
  };
  for (const auto& c : cases) {
    std::ifstream in(folder_ + "/" + c.file, std::ios::binary);
    const std::string good((std::istreambuf_iterator<char>(in)), {});
    Write(c.file, c.text);
    EXPECT_THAT(Refusal(), AllOf(HasSubstr(c.where), HasSubstr(c.says)));
    Write(c.file, good);
  }
  EXPECT_TRUE(Read().ok());
  EXPECT_THAT(Refusal({.split = "dev"}), HasSubstr("qrels/dev.tsv"));
}

TEST_F(BeirTest, MissingDocumentsCanBeCounted) {
  Write("qrels/test.tsv", "q1\tz\t1\nq1\ta\t1\n");
  EXPECT_THAT(Refusal(), HasSubstr("--allow-missing"));
  const auto set = Read({.allow_missing = true});
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->missing_documents, 1);
  EXPECT_EQ(set->judgements.at("q1").size(), 2u);
}

TEST_F(BeirTest, ALineBeyondTheLimitIsRefused) {
  Write("corpus.jsonl", "{\"_id\": \"a\", \"text\": \"" +
                            std::string((16 << 20) + 1, 'x') + "\"}\n");
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("corpus.jsonl:1]"),
                               HasSubstr("at most 16777216")));
}

}  // namespace
}  // namespace motet::retrieve
