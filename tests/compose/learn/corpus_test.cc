// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "compose/learn/hash.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string WriteText(const std::string& text) {
  const std::string path = toy::FreshPath("corpus.jsonl");
  std::ofstream(path) << text;
  return path;
}

TEST(JsonlTest, WritesWhatItReads) {
  const std::vector<std::string> documents = {
      "plain", "two\nlines \"quoted\"", "tab\tand \xc3\xa9", ""};
  const std::string path = toy::FreshPath("round.jsonl");
  ASSERT_TRUE(WriteJsonl(path, documents).ok());
  auto read = ReadJsonl(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, documents);
}

TEST(JsonlTest, PassesOverBlankLinesAndOtherKeys) {
  auto read = ReadJsonl(
      WriteText("\n{\"text\": \"a\", \"id\": 3}\n  \r\n{\"text\": \"b\"}"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_THAT(*read, ElementsAre("a", "b"));
}

TEST(JsonlTest, NamesFileAndLineOfABadLine) {
  for (const char* bad : {"{\"text\": 3}", "nonsense", "{\"txt\": \"a\"}",
                          "[1]", "{\"text\": \"\\ud800\"}"}) {
    const std::string path =
        WriteText(std::string("{\"text\": \"fine\"}\n\n") + bad + "\n");
    const auto status = ReadJsonl(path).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path + ":3")) << bad;
  }
}

TEST(JsonlTest, MissingFileIsNotFound) {
  EXPECT_EQ(ReadJsonl("/nowhere/at/all.jsonl").status().code(),
            absl::StatusCode::kNotFound);
}

TEST(SplitTest, FoldsWhiteSpaceAndKeepsTheFirst) {
  const Split split = DeduplicateAndSplit(
      {"a  b", " a b\n", "a\tb", "ab", "", " \n\t"}, 0);
  EXPECT_THAT(split.train, ElementsAre("a  b", "ab"));
  EXPECT_EQ(split.duplicates, 2);
  EXPECT_EQ(split.empty, 2);
  EXPECT_TRUE(split.test.empty());
}

TEST(SplitTest, SideDependsOnTheTextAlone) {
  std::vector<std::string> documents;
  for (int i = 0; i < 2000; ++i) {
    documents.push_back("text " + std::to_string(i));
  }
  const Split all = DeduplicateAndSplit(documents, 10);
  EXPECT_EQ(all.train.size() + all.test.size(), documents.size());
  EXPECT_NEAR(static_cast<double>(all.test.size()), 200, 60);

  // In another corpus, in another order, with other white space: never on
  // the other side.
  std::reverse(documents.begin(), documents.end());
  documents.resize(700);
  for (std::string& d : documents) d = "  " + d + "\n";
  const Split some = DeduplicateAndSplit(documents, 10);
  const std::set<std::string> train(all.train.begin(), all.train.end());
  for (const std::string& d : some.test) {
    EXPECT_EQ(train.count(d.substr(2, d.size() - 3)), 0u);
  }
}

TEST(SplitTest, PercentOfTestIsMonotone) {
  std::vector<std::string> documents;
  for (int i = 0; i < 500; ++i) documents.push_back("d" + std::to_string(i));
  const Split few = DeduplicateAndSplit(documents, 5);
  const Split many = DeduplicateAndSplit(documents, 30);
  const std::set<std::string> test(many.test.begin(), many.test.end());
  for (const std::string& d : few.test) EXPECT_EQ(test.count(d), 1u);
  EXPECT_TRUE(DeduplicateAndSplit(documents, 100).train.empty());
}

// The hash is part of every federation's split: a change would move texts
// from one side to the other.
TEST(SplitTest, HashIsFnv1a) {
  EXPECT_EQ(Fnv1a(""), 0xcbf29ce484222325u);
  EXPECT_EQ(Fnv1a("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(Fnv1a("foobar"), 0x85944171f73967e8u);
}

TEST(TokenWindowsTest, JoinsBySeparatorAndDropsTheRest) {
  const TokenWindows windows(toy::Letters(), {"abc", "de", "f"}, 26, 3);
  EXPECT_EQ(windows.tokens(), 8);  // abc _ de _ f
  ASSERT_EQ(windows.count(), 2);
  EXPECT_THAT(windows.at(0), ElementsAre(0, 1, 2));
  EXPECT_THAT(windows.at(1), ElementsAre(26, 3, 4));
  EXPECT_EQ(TokenWindows(toy::Letters(), {"abc", "de"}, -1, 5).count(), 1);
  EXPECT_EQ(TokenWindows(toy::Letters(), {}, 26, 5).count(), 0);
}

TEST(BatchPlanTest, EveryWindowOnceAnEpoch) {
  const int64_t own = 17, batch = 4;
  const BatchPlan plan(own, 0, batch, 0, 42);
  std::vector<int64_t> read;
  for (int64_t step = 0; step < 51; ++step) {
    for (const BatchPlan::Pick& pick : plan.at(step)) {
      EXPECT_FALSE(pick.from_public);
      read.push_back(pick.window);
    }
  }
  std::vector<std::vector<int64_t>> epochs;
  for (size_t first = 0; first + own <= read.size(); first += own) {
    epochs.emplace_back(read.begin() + first, read.begin() + first + own);
    std::set<int64_t> seen(epochs.back().begin(), epochs.back().end());
    EXPECT_EQ(seen.size(), static_cast<size_t>(own));
    EXPECT_EQ(*seen.begin(), 0);
    EXPECT_EQ(*seen.rbegin(), own - 1);
  }
  ASSERT_EQ(epochs.size(), 12u);
  EXPECT_NE(epochs[0], epochs[1]);  // shuffled anew
}

TEST(BatchPlanTest, KeepsThePublicShare) {
  const BatchPlan plan(100, 9, 8, 1.0 / 3, 7);
  std::map<int64_t, int> times;
  int publics = 0;
  for (int64_t step = 0; step < 30; ++step) {
    int here = 0;
    for (const BatchPlan::Pick& pick : plan.at(step)) {
      if (!pick.from_public) continue;
      ++here;
      ++times[pick.window];
    }
    EXPECT_GE(here, 2);
    EXPECT_LE(here, 3);
    publics += here;
    EXPECT_EQ(publics, static_cast<int>((step + 1) * 8 * (1.0 / 3)));
  }
  ASSERT_EQ(times.size(), 9u);
  for (const auto& [window, count] : times) {
    EXPECT_NEAR(count, publics / 9.0, 1);
  }
}

TEST(BatchPlanTest, IsAFunctionOfSeedAndStep) {
  const BatchPlan one(50, 20, 6, 0.4, 3), same(50, 20, 6, 0.4, 3);
  const BatchPlan other(50, 20, 6, 0.4, 4);
  const auto windows = [](const BatchPlan& plan, int64_t step) {
    std::vector<int64_t> w;
    for (const auto& pick : plan.at(step)) {
      w.push_back(pick.window * 2 + (pick.from_public ? 1 : 0));
    }
    return w;
  };
  EXPECT_EQ(windows(one, 11), windows(same, 11));  // steps before not asked
  int differ = 0;
  for (int64_t s = 0; s < 10; ++s) {
    differ += windows(one, s) != windows(other, s);
  }
  EXPECT_GT(differ, 5);
}

TEST(BatchPlanTest, AKindWithoutWindowsIsNeverPicked) {
  for (const auto& pick : BatchPlan(5, 0, 8, 0.5, 1).at(3)) {
    EXPECT_FALSE(pick.from_public);
  }
  for (const auto& pick : BatchPlan(0, 5, 8, 0.0, 1).at(3)) {
    EXPECT_TRUE(pick.from_public);
  }
}

TEST(HashTest, ShuffledIsAPermutationOfAnySize) {
  for (int64_t size : {1, 2, 3, 5, 16, 17, 255, 1000}) {
    std::set<int64_t> seen;
    for (int64_t i = 0; i < size; ++i) seen.insert(Shuffled(i, size, 99));
    EXPECT_EQ(static_cast<int64_t>(seen.size()), size);
    EXPECT_EQ(*seen.rbegin(), size - 1);
  }
}

TEST(HashTest, NormalHasMeanZeroAndVarianceOne) {
  double sum = 0, square = 0;
  const int n = 20000;
  for (uint64_t i = 0; i < n; ++i) {
    const double x = Normal(12, i);
    sum += x;
    square += x * x;
  }
  EXPECT_NEAR(sum / n, 0, 0.03);
  EXPECT_NEAR(square / n, 1, 0.05);
}

TEST(TokenWindowsTest, DocumentsOfAWindow) {
  // Tokens: a b | c d e f g h | i, each but the last with its separator.
  const TokenWindows windows(toy::Letters(), {"ab", "cdefgh", "i"}, 26, 4);
  ASSERT_EQ(windows.count(), 2);
  const auto parts = [&](int64_t i) {
    std::vector<std::vector<int32_t>> all;
    for (const auto& part : windows.documents(i)) {
      all.emplace_back(part.begin(), part.end());
    }
    return all;
  };
  using Parts = std::vector<std::vector<int32_t>>;
  EXPECT_EQ(parts(0), (Parts{{0, 1, 26}, {2}}));
  EXPECT_EQ(parts(1), (Parts{{3, 4, 5, 6}}));
  // Empty documents and a boundary between windows leave no empty part.
  const TokenWindows odd(toy::Letters(), {"", "abc", "", "de"}, -1, 3);
  ASSERT_EQ(odd.count(), 1);
  EXPECT_EQ(odd.documents(0).size(), 1u);
  const TokenWindows even(toy::Letters(), {"abc", "def"}, -1, 3);
  for (int64_t i : {0, 1}) {
    ASSERT_EQ(even.documents(i).size(), 1u);
    EXPECT_EQ(even.documents(i)[0].data(), even.at(i).data());
    EXPECT_EQ(even.documents(i)[0].size(), 3u);
  }
}

}  // namespace
}  // namespace motet::learn
