// SPDX-License-Identifier: Apache-2.0
// From texts to what an adapter is trained on: rows, ids, hard negatives, and
// the file that keeps the documents' vectors.
#include "compose/retrieve/adapter_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "compose/retrieve/flat.h"
#include "tests/harness/encoder_directory.h"

namespace motet::retrieve {
namespace {

namespace fs = std::filesystem;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;

class AdapterDataTest : public ::testing::Test {
 protected:
  AdapterDataTest()
      : folder_(absl::StrCat(::testing::TempDir(), "/adapter_data_",
                             ::testing::UnitTest::GetInstance()
                                 ->current_test_info()
                                 ->name())) {
    fs::remove_all(folder_);
    motet::testing::WriteEncoderDirectory(folder_ + "/encoder");
    auto loaded =
        TextEncoder::Load(folder_ + "/encoder", math::Product::kExact);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    base_ = *std::move(loaded);
  }
  ~AdapterDataTest() override { fs::remove_all(folder_); }

  // `count` documents and as many queries, each judged with its document.
  static BeirSet Set(const std::string& name, int count) {
    BeirSet set;
    for (int i = 0; i < count; ++i) {
      const std::string id = absl::StrCat(name, i);
      set.documents.push_back({id, "", absl::StrCat("the text of ", id), {}});
      set.queries.push_back({"q" + id, absl::StrCat("what is ", id, "?")});
      set.judgements["q" + id][id] = 1;
    }
    return set;
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> files;
    for (const auto& entry : fs::directory_iterator(folder_ + "/cache")) {
      files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  std::string folder_;
  std::unique_ptr<TextEncoder> base_;
};

// Between batches of 64 texts.
TEST_F(AdapterDataTest, EncodingStopsWhenAsked) {
  const std::string cache = folder_ + "/cache";
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i) texts.push_back(absl::StrCat("text ", i));
  std::vector<double> asked;
  bool cached = true;
  const auto stopped = CachedVectors(*base_, texts, cache,
                                     [&](double part) {
                                       asked.push_back(part);
                                       return asked.size() < 2;
                                     },
                                     &cached);
  EXPECT_TRUE(absl::IsCancelled(stopped.status())) << stopped.status();
  EXPECT_THAT(asked, ElementsAre(0.32, 0.64));
  if (fs::exists(cache)) {
    EXPECT_TRUE(Files().empty());
  }
  AdapterDataOptions options;
  options.progress = [](double) { return false; };
  EXPECT_TRUE(absl::IsCancelled(
      MakeAdapterData(*base_, {Set("a", 5)}, options).status()));
  const auto all = CachedVectors(*base_, texts, cache,
                                 [](double) { return true; }, &cached);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_FALSE(cached);
  EXPECT_EQ(all->values, base_->Encode(texts)->values);
}

TEST_F(AdapterDataTest, EncodingGoesOnFromTheLastFile) {
  const std::string cache = folder_ + "/cache";
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i) texts.push_back(absl::StrCat("text ", i));
  const auto whole = base_->Encode(texts);
  ASSERT_TRUE(whole.ok());
  bool cached = true;
  // Files of 70, 70 and 60; asked between batches of 64 and at a file's end.
  const auto stopped =
      CachedVectors(*base_, texts, cache,
                    [&](double part) { return part < 0.5; }, &cached, 70);
  EXPECT_TRUE(absl::IsCancelled(stopped.status())) << stopped.status();
  const std::vector<std::string> first = Files();
  ASSERT_EQ(first.size(), 1u);
  const auto written = fs::last_write_time(first[0]);
  std::vector<double> asked;
  const auto all = CachedVectors(*base_, texts, cache,
                                 [&](double part) {
                                   asked.push_back(part);
                                   return true;
                                 },
                                 &cached, 70);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_FALSE(cached);
  EXPECT_EQ(all->values, whole->values);
  EXPECT_THAT(asked, Each(Gt(0.35)));  // the first is not encoded again
  EXPECT_EQ(fs::last_write_time(first[0]), written);
  EXPECT_EQ(Files().size(), 3u);
  // More texts: only those of the last file, and after it.
  texts.push_back("one more");
  const auto more = CachedVectors(*base_, texts, cache, nullptr, &cached, 70);
  ASSERT_TRUE(more.ok()) << more.status();
  EXPECT_FALSE(cached);
  EXPECT_EQ(Files().size(), 4u);
  EXPECT_EQ(more->values, base_->Encode(texts)->values);
  ASSERT_TRUE(
      CachedVectors(*base_, texts, cache, nullptr, &cached, 70).ok());
  EXPECT_TRUE(cached);
}

TEST_F(AdapterDataTest, SetsLieOneAfterAnother) {
  std::vector<BeirSet> sets = {Set("a", 5), Set("b", 4)};
  sets[0].judgements["qa1"]["a3"] = 2;
  sets[0].judgements["qa1"]["a2"] = 0;   // judged, not relevant
  sets[0].documents[4].text = " ";       // so qa4 has no document
  sets[1].judgements["qb0"] = {{"gone", 1}};
  std::string letters;  // more than the limit's tokens
  for (int i = 0; i < 100; ++i) letters += "z ";
  sets[1].documents[2].text = letters;
  sets[1].queries[3].text = letters;
  const auto made = MakeAdapterData(*base_, sets, {});
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->unanswered, 2);
  EXPECT_EQ(made->cut_documents, 1);
  EXPECT_EQ(made->cut_queries, 1);
  EXPECT_THAT(made->data.sets, ElementsAre(4, 3));
  ASSERT_EQ(made->data.relevant.size(), 7u);
  EXPECT_THAT(made->data.relevant[1], ElementsAre(1, 3));
  EXPECT_THAT(made->data.relevant[4], ElementsAre(5 + 1));
  EXPECT_TRUE(made->data.hard.empty());
  EXPECT_EQ(made->data.queries[6].size(),
            static_cast<size_t>(base_->max_tokens()));
  ASSERT_EQ(made->data.documents.size(), 9u * base_->width());
  const auto alone =
      base_->Encode(std::vector<std::string>{"the text of b1"});
  ASSERT_TRUE(alone.ok());
  EXPECT_TRUE(std::equal(alone->values.begin(), alone->values.end(),
                         made->data.documents.begin() + 6 * base_->width()));
}

TEST_F(AdapterDataTest, HardNegativesAreTheBasesBestThatNobodyJudged) {
  std::vector<BeirSet> sets = {Set("a", 3), Set("b", 12)};
  sets[1].judgements["qb2"]["b7"] = 1;
  AdapterDataOptions options;
  options.hard_pool = 4;
  const auto made = MakeAdapterData(*base_, sets, options);
  ASSERT_TRUE(made.ok()) << made.status();
  options.hard_skip = 2;
  const auto skipped = MakeAdapterData(*base_, sets, options);
  ASSERT_TRUE(skipped.ok());
  ASSERT_EQ(made->data.hard.size(), 15u);
  EXPECT_EQ(made->data.hard[0].size(), 2u);  // there are no more
  const auto query = base_->Encode(std::vector<std::string>{"what is b2?"});
  ASSERT_TRUE(query.ok());
  const Ranking ranking =
      SearchFlat(made->documents.data() + 3 * base_->width(), 0, 12,
                 base_->width(), query->values, 12, nullptr)[0];
  std::vector<int64_t> best;
  for (const Hit& hit : ranking) {
    if (hit.row != 2 && hit.row != 7) best.push_back(3 + hit.row);
  }
  const auto sorted = [&](int first) {
    std::vector<int64_t> rows(best.begin() + first, best.begin() + first + 4);
    std::sort(rows.begin(), rows.end());
    return rows;
  };
  EXPECT_EQ(made->data.hard[3 + 2], sorted(0));
  EXPECT_EQ(skipped->data.hard[3 + 2], sorted(2));
}

TEST_F(AdapterDataTest, FewerQueriesAreDrawnBySeed) {
  const std::vector<BeirSet> sets = {Set("a", 30), Set("b", 3)};
  AdapterDataOptions options;
  options.max_queries = 8;
  const auto one = MakeAdapterData(*base_, sets, options);
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_THAT(one->data.sets, ElementsAre(8, 3));
  const auto same = MakeAdapterData(*base_, sets, options);
  options.seed = 2;
  const auto other = MakeAdapterData(*base_, sets, options);
  ASSERT_TRUE(same.ok() && other.ok());
  EXPECT_EQ(one->data.relevant, same->data.relevant);
  EXPECT_NE(one->data.relevant, other->data.relevant);
}

TEST_F(AdapterDataTest, VectorsAreMadeOnce) {
  const std::vector<BeirSet> sets = {Set("a", 5), Set("b", 4)};
  AdapterDataOptions options;
  options.cache = folder_ + "/cache";
  const auto made = MakeAdapterData(*base_, sets, options);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->cached, 0);
  ASSERT_EQ(Files().size(), 2u);
  const auto again = MakeAdapterData(*base_, sets, options);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->cached, 2);
  EXPECT_EQ(again->documents, made->documents);
  // Another text, another file; the others stay.
  std::vector<BeirSet> changed = sets;
  changed[1].documents[0].text += ".";
  const auto other = MakeAdapterData(*base_, changed, options);
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(other->cached, 1);
  EXPECT_EQ(Files().size(), 3u);
  // Another encoder, other files.
  motet::testing::WriteEncoderDirectory(folder_ + "/other", {.seed = 2});
  const auto loaded =
      TextEncoder::Load(folder_ + "/other", math::Product::kExact);
  ASSERT_TRUE(loaded.ok());
  const auto moved = MakeAdapterData(**loaded, sets, options);
  ASSERT_TRUE(moved.ok());
  EXPECT_EQ(moved->cached, 0);
  EXPECT_NE(moved->documents, made->documents);
}

TEST_F(AdapterDataTest, DamagedVectorsAreMadeAgain) {
  const std::vector<BeirSet> sets = {Set("a", 5)};
  AdapterDataOptions options;
  options.cache = folder_ + "/cache";
  const auto made = MakeAdapterData(*base_, sets, options);
  ASSERT_TRUE(made.ok()) << made.status();
  const std::string path = Files()[0];
  const auto size = fs::file_size(path);
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(size) - 300);
    file.put('\x55');
  }
  auto again = MakeAdapterData(*base_, sets, options);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->cached, 0);
  EXPECT_EQ(again->documents, made->documents);
  fs::resize_file(path, size / 2);
  again = MakeAdapterData(*base_, sets, options);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->cached, 0);
  again = MakeAdapterData(*base_, sets, options);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->cached, 1);
}

TEST_F(AdapterDataTest, WithoutAnAnsweredQueryThereIsNothingToLearn) {
  std::vector<BeirSet> sets = {Set("a", 2)};
  for (auto& [query, judged] : sets[0].judgements) judged = {{"gone", 1}};
  const auto made = MakeAdapterData(*base_, sets, {});
  ASSERT_FALSE(made.ok());
  EXPECT_THAT(std::string(made.status().message()),
              HasSubstr("no query with a document, of 2"));
}

}  // namespace
}  // namespace motet::retrieve
