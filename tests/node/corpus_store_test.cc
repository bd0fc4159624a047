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

}  // namespace
}  // namespace motet::node
