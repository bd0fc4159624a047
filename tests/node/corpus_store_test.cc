// SPDX-License-Identifier: Apache-2.0
#include "node/corpus_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "compose/learn/corpus.h"
#include "proto/files.h"
#include "tests/node/support.h"

namespace motet::node {
namespace {

using ::testing::HasSubstr;
using testing::NewFolder;
using testing::ReadAll;
using testing::SomeDocuments;

class CorpusTest : public ::testing::Test {
 protected:
  CorpusTest() { s_.dir = NewFolder("corpus"); }
  std::string File(const std::string& name,
                   const std::vector<std::string>& documents) {
    const std::string path = NewFolder("text") + "/" + name;
    EXPECT_TRUE(learn::WriteJsonl(path, documents).ok());
    return path;
  }
  Settings s_;
};

TEST_F(CorpusTest, DeduplicatesAcrossFilesAndSplits) {
  const auto documents = SomeDocuments(200, "word");
  auto r = ImportCorpus(
      s_, {File("a.jsonl", documents), File("b.jsonl", documents)}, 10);
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->read, 400);
  EXPECT_EQ(r->duplicates, 200);
  EXPECT_EQ(r->train + r->test, 200);
  EXPECT_GT(r->test, 0);
  auto corpus = LoadCorpus(s_, 20);
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  EXPECT_EQ(static_cast<int64_t>(corpus->train.size()), r->train);
  auto test = learn::ReadJsonl(s_.Path("corpus/test.jsonl"));
  ASSERT_TRUE(test.ok());
  const std::set<std::string> train(corpus->train.begin(),
                                    corpus->train.end());
  for (const std::string& d : *test) EXPECT_FALSE(train.contains(d));
}

TEST_F(CorpusTest, ABadLineLeavesTheOldCorpus) {
  ASSERT_TRUE(
      ImportCorpus(s_, {File("a.jsonl", SomeDocuments(50, "old"))}, 10).ok());
  const std::string before = ReadAll(s_.Path("corpus/train.jsonl"));
  const std::string bad = NewFolder("bad") + "/bad.jsonl";
  ASSERT_TRUE(
      proto::WriteFileAtomic(bad, "{\"text\": \"ok\"}\n{\"txt\": 1}\n").ok());
  const auto r = ImportCorpus(s_, {bad}, 10);
  EXPECT_THAT(std::string(r.status().message()), HasSubstr("bad.jsonl:2"));
  EXPECT_EQ(ReadAll(s_.Path("corpus/train.jsonl")), before);
}

TEST_F(CorpusTest, NothingToTrainOnIsAnError) {
  const auto r = ImportCorpus(s_, {File("a.jsonl", {"  ", ""})}, 10);
  EXPECT_FALSE(r.ok());
  EXPECT_FALSE(proto::Exists(s_.Path("corpus/train.jsonl")));
}

TEST_F(CorpusTest, TooFewDocumentsNameThePolicy) {
  ASSERT_TRUE(
      ImportCorpus(s_, {File("a.jsonl", SomeDocuments(5, "few"))}, 0).ok());
  EXPECT_THAT(std::string(LoadCorpus(s_, 6).status().message()),
              HasSubstr("min_documents"));
  EXPECT_TRUE(LoadCorpus(s_, 5).ok());
}

class RetrievalCorpusTest : public CorpusTest {
 protected:
  // Three documents, three queries of which two are judged for training.
  std::string Beir(const std::string& word) {
    const std::string folder = NewFolder("beir");
    std::string corpus, queries;
    for (int i = 0; i < 3; ++i) {
      const std::string n = std::to_string(i);
      corpus += "{\"_id\": \"d" + n + "\", \"text\": \"" + word + n + "\"}\n";
      queries += "{\"_id\": \"q" + n + "\", \"text\": \"" + word + n + "\"}\n";
    }
    Write(folder, "corpus.jsonl", corpus);
    Write(folder, "queries.jsonl", queries);
    Write(folder, "qrels/train.tsv",
          "query-id\tcorpus-id\tscore\nq0\td0\t1\nq1\td1\t1\nq1\td2\t0\n");
    return folder;
  }
  static void Write(const std::string& folder, const std::string& name,
                    const std::string& text) {
    ASSERT_TRUE(proto::MakeDirectories(folder + "/qrels").ok());
    ASSERT_TRUE(proto::WriteFileAtomic(folder + "/" + name, text).ok());
  }
  std::string Refusal(const std::string& folder) {
    const auto r = ImportRetrieval(s_, folder);
    EXPECT_FALSE(r.ok());
    return std::string(r.status().message());
  }
};

TEST_F(RetrievalCorpusTest, ReplacesTheOldOneWholeAndLeavesTheText) {
  ASSERT_TRUE(
      ImportCorpus(s_, {File("a.jsonl", SomeDocuments(50, "old"))}, 10).ok());
  const std::string text = ReadAll(s_.Path("corpus/train.jsonl"));
  const auto r = ImportRetrieval(s_, Beir("sea"));
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->documents, 3);
  EXPECT_EQ(r->queries, 2);
  EXPECT_EQ(r->judgements, 3);
  const auto first = LoadRetrieval(s_, 2);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->set.documents[0].text, "sea0");
  ASSERT_TRUE(ImportRetrieval(s_, Beir("law")).ok());
  const auto second = LoadRetrieval(s_, 2);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->set.documents[0].text, "law0");
  EXPECT_NE(first->sha256, second->sha256);
  EXPECT_EQ(ReadAll(s_.Path("corpus/train.jsonl")), text);
  EXPECT_THAT(*proto::ListDirectory(s_.Path("corpus")),
              ::testing::ElementsAre("retrieval", "test.jsonl", "train.jsonl"));
}

TEST_F(RetrievalCorpusTest, WhatIsWrongIsNamedAndLeavesTheOldOne) {
  ASSERT_TRUE(ImportRetrieval(s_, Beir("sea")).ok());
  const std::string before = LoadRetrieval(s_, 2)->sha256;
  std::string folder = Beir("bad");
  Write(folder, "qrels/train.tsv",
        "query-id\tcorpus-id\tscore\nq0\tnone\t1\n");
  // In the words of the owner's folder, not of the copy.
  EXPECT_THAT(Refusal(folder),
              ::testing::AllOf(HasSubstr("none"),
                               HasSubstr(folder + "/qrels/train.tsv")));
  folder = Beir("bad");
  Write(folder, "corpus.jsonl",
        "{\"_id\": \"d0\", \"text\": \"a\"}\n"
        "{\"_id\": \"d0\", \"text\": \"b\"}\n");
  EXPECT_THAT(Refusal(folder), HasSubstr(folder + "/corpus.jsonl:2"));
  folder = Beir("bad");
  ASSERT_EQ(remove((folder + "/qrels/train.tsv").c_str()), 0);
  EXPECT_THAT(Refusal(folder), HasSubstr("qrels/train.tsv"));
  EXPECT_EQ(LoadRetrieval(s_, 2)->sha256, before);
  EXPECT_THAT(*proto::ListDirectory(s_.Path("corpus")),
              ::testing::ElementsAre("retrieval"));
}

TEST_F(RetrievalCorpusTest, MissingOrTooFewSaysWhatToDo) {
  auto r = LoadRetrieval(s_, 2);
  EXPECT_EQ(r.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(r.status().message()),
              HasSubstr("motet-node corpus import"));
  ASSERT_TRUE(ImportRetrieval(s_, Beir("sea")).ok());
  r = LoadRetrieval(s_, 3);
  EXPECT_THAT(std::string(r.status().message()),
              ::testing::AllOf(HasSubstr("2 judged training queries"),
                               HasSubstr("at least 3")));
}

}  // namespace
}  // namespace motet::node
