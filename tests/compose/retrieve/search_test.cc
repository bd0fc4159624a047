// SPDX-License-Identifier: Apache-2.0
// A corpus through a tiny encoder into an index, and searches of it: every
// mode, adapters on queries alone, and what is refused.
#include "compose/retrieve/search.h"

#include <fstream>

#include "compose/retrieve/index_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compose/retrieve/folder_fixture.h"
#include "tests/harness/encoder_directory.h"

namespace motet::retrieve {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class SearchTest : public FolderTest {
 protected:
  SearchTest() {
    testing::WriteEncoderDirectory(folder_ + "/encoder");
    encoder_ = Load("encoder");
    Write(
        "{\"_id\": \"sea\", \"text\": \"salt water of the sea\"}\n"
        "{\"_id\": \"law\", \"title\": \"Law\", \"text\": \"of the land\", "
        "\"metadata\": {\"year\": 1999}}\n"
        "{\"_id\": \"none\", \"title\": \" \", \"text\": \"\"}\n"
        "{\"_id\": \"long\", \"text\": \"" +
        std::string(100, 'z') + "\"}\n");
  }
  std::unique_ptr<TextEncoder> Load(const std::string& name) const {
    auto encoder =
        TextEncoder::Load(folder_ + "/" + name, math::Product::kExact);
    EXPECT_TRUE(encoder.ok()) << encoder.status();
    return *std::move(encoder);
  }
  void Write(const std::string& corpus) const {
    std::ofstream(folder_ + "/corpus.jsonl", std::ios::binary) << corpus;
  }
  absl::StatusOr<AddReport> Add(bool replace = false) const {
    auto writer = IndexWriter::Create(folder_ + "/index",
                                      HeaderFor(*encoder_, IndexKind::kAuto));
    EXPECT_TRUE(writer.ok()) << writer.status();
    return AddCorpus(**writer, *encoder_, folder_ + "/corpus.jsonl",
                     {.replace = replace, .progress = nullptr});
  }
  absl::StatusOr<SearchResult> Ask(SearchRequest request,
                                   const QueryEncoder* encoder) const {
    const auto index = Index::Open(folder_ + "/index");
    EXPECT_TRUE(index.ok()) << index.status();
    return Search(**index, encoder, request);
  }
  std::string Refusal(SearchRequest request) const {
    const FixedQueryEncoder base(encoder_.get());
    return std::string(Ask(std::move(request), &base).status().message());
  }
  std::unique_ptr<TextEncoder> encoder_;
};

TEST_F(SearchTest, TextsFindThemselvesInEveryMode) {
  const auto report = Add();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->added, 3);
  EXPECT_EQ(report->empty, 1);
  EXPECT_EQ(report->cut, 1);
  const FixedQueryEncoder base(encoder_.get());
  for (const SearchMode mode :
       {SearchMode::kDense, SearchMode::kBm25, SearchMode::kFusion}) {
    const auto found =
        Ask({{"salt water of the sea", "law of the land"}, mode, 1, {}}, &base);
    ASSERT_TRUE(found.ok()) << found.status();
    ASSERT_THAT(found->rankings, SizeIs(2));
    EXPECT_EQ(found->rankings[0][0].row, 0);
    EXPECT_EQ(found->rankings[1][0].row, 1);
    if (mode == SearchMode::kDense) {
      EXPECT_NEAR(found->rankings[0][0].score, 1, 1e-5);
      EXPECT_THAT(found->experts, ElementsAre("", ""));
    }
  }
  // More than there are: as many as there are. And a very long query is cut.
  std::string query;
  for (int i = 0; i < 1 << 19; ++i) query += "q ";
  const auto all = Ask({{query}, SearchMode::kDense, 99, {}}, &base);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_THAT(all->rankings[0], SizeIs(3));
  EXPECT_EQ(all->cut, 1);
}

// The seam of experts: another vector for the query, the same index.
TEST_F(SearchTest, AnAdapterMovesQueriesAlone) {
  ASSERT_TRUE(Add().ok());
  model::Lora lora;
  lora.config.targets = {"query", "value"};
  model::EncoderWeights shape;
  std::vector<std::vector<float>> values;
  model::VisitLora(
      encoder_->config(), lora,
      [&](const std::string&, const math::Shape& want, math::Tensor& tensor) {
        values.emplace_back(static_cast<size_t>(want.size()));
        for (size_t i = 0; i < values.back().size(); ++i) {
          values.back()[i] = 0.1f * static_cast<float>(i % 7) - 0.3f;
        }
        tensor.data = values.back().data();
        tensor.shape = want;
      });
  const FixedQueryEncoder base(encoder_.get());
  const FixedQueryEncoder expert(encoder_.get(), &lora, "sea.example");
  const SearchRequest request = {{"the sea"}, SearchMode::kDense, 3, {}};
  const auto plain = Ask(request, &base), adapted = Ask(request, &expert);
  ASSERT_TRUE(adapted.ok()) << adapted.status();
  EXPECT_THAT(adapted->experts, ElementsAre("sea.example"));
  EXPECT_NE(plain->rankings, adapted->rankings);
  EXPECT_EQ(Ask(request, &base)->rankings, plain->rankings);
}

TEST_F(SearchTest, WhatIsRefused) {
  ASSERT_TRUE(Add().ok());
  EXPECT_THAT(Refusal({{"a"}, SearchMode::kDense, 0, {}}),
              AllOf(HasSubstr("k 0"), HasSubstr("1 to 1000")));
  EXPECT_THAT(Refusal({{"a"}, SearchMode::kDense, 1001, {}}),
              HasSubstr("k 1001"));
  EXPECT_THAT(Refusal({{" "}, SearchMode::kDense, 1, {}}),
              HasSubstr("without text"));
  EXPECT_THAT(Refusal({{}, SearchMode::kBm25, 1, {}}), HasSubstr("no query"));
  EXPECT_THAT(Refusal({{"a"}, SearchMode::kDense, 1, {{"colour", "red"}}}),
              AllOf(HasSubstr("colour"), HasSubstr("year")));
  testing::WriteEncoderDirectory(folder_ + "/other", {.seed = 2});
  const auto other = Load("other");
  const FixedQueryEncoder wrong(other.get());
  const auto found = Ask({{"a"}, SearchMode::kDense, 1, {}}, &wrong);
  EXPECT_EQ(found.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(found.status().message()),
              HasSubstr("the one it was built with"));
  auto writer = IndexWriter::Open(folder_ + "/index");
  EXPECT_EQ(AddCorpus(**writer, *other, folder_ + "/corpus.jsonl", {})
                .status()
                .code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(SearchTest, TheSameCorpusAgainChangesNothing) {
  ASSERT_TRUE(Add().ok());
  const auto again = Add();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->added, 0);
  EXPECT_EQ(again->unchanged, 3);
  const auto before = (*Index::Open(folder_ + "/index"))->ContentDigest();

  // The second line is new text for an old id: nothing is written, not even
  // the first.
  Write(
      "{\"_id\": \"new\", \"text\": \"new\"}\n"
      "{\"_id\": \"sea\", \"text\": \"sweet water\"}\n");
  const auto refused = Add();
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(refused.status().message()),
              AllOf(HasSubstr("corpus.jsonl:2"), HasSubstr("--replace")));
  EXPECT_EQ((*Index::Open(folder_ + "/index"))->ContentDigest(), before);
  const auto replaced = Add(/*replace=*/true);
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  EXPECT_EQ(replaced->added, 1);
  EXPECT_EQ(replaced->replaced, 1);
  EXPECT_EQ((*Index::Open(folder_ + "/index"))->documents(), 4);
}

TEST_F(SearchTest, TheDigestIsOfWhatDecidesAVector) {
  const auto digest = encoder_->digest();
  EXPECT_EQ(Load("encoder")->digest(), digest);
  testing::WriteEncoderDirectory(folder_ + "/shorter", {.max_tokens = 40});
  EXPECT_NE(Load("shorter")->digest(), digest);
  testing::WriteEncoderDirectory(folder_ + "/longer", {.normalise = false});
  EXPECT_NE(Load("longer")->digest(), digest);
}

}  // namespace
}  // namespace motet::retrieve
