// SPDX-License-Identifier: Apache-2.0
// The classifier behind proxy data: it finds the public documents that read
// like an owner's, says how well it tells the sides apart, and judges no
// document by what it learned of it by heart.
#include "compose/learn/proxy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr float kNone = std::numeric_limits<float>::quiet_NaN();

// Public text: 60 documents of other vocabularies, 20 of the owner's.
std::vector<std::string> Public() {
  std::vector<std::string> texts;
  for (const uint64_t seed : {2, 3, 4}) {
    for (std::string& text : toy::Documents(20, seed)) texts.push_back(text);
  }
  // Further documents of the owner's own kind.
  std::vector<std::string> like = toy::Documents(70, 1);
  texts.insert(texts.end(), like.begin() + 50, like.end());
  return texts;
}

TEST(ProxyTest, FindsThePublicDocumentsThatReadLikeTheOwners) {
  const std::vector<std::string> own = toy::Documents(50, 1);
  const auto result = ScorePublicText(own, Public());
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->scores.size(), 80u);
  const auto first_like = result->scores.begin() + 60;
  EXPECT_GT(*std::min_element(first_like, result->scores.end()),
            *std::max_element(result->scores.begin(), first_like));
  EXPECT_THAT(ChooseProxy({result->scores}, 80, 20, 1),
              testing::SizeIs(40));
  EXPECT_EQ(ScorePublicText(own, Public())->scores, result->scores);
}

TEST(ProxyTest, AccuracyIsOfWhatWasHeldOut) {
  std::vector<std::string> others = Public();
  others.resize(60);
  const auto apart = ScorePublicText(toy::Documents(50, 1), others);
  ASSERT_TRUE(apart.ok()) << apart.status();
  EXPECT_GT(apart->accuracy, 0.95);
  EXPECT_EQ(apart->own, 50);
  EXPECT_EQ(apart->other, 60);
  // Sides that cannot be told apart: documents of one kind, each with words
  // that no other has, which a classifier that had seen them would know.
  std::vector<std::string> a, b;
  for (int i = 0; i < 60; ++i) {
    const std::string unique = absl::StrCat("q", i * i + 7, "x");
    (i % 2 == 0 ? a : b).push_back(absl::StrCat(unique, " ", unique, " ",
                                                unique));
  }
  const auto same = ScorePublicText(a, b);
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_LT(same->accuracy, 0.75);
}

TEST(ProxyTest, TextsOfBothSidesTeachNothing) {
  const std::vector<std::string> own = toy::Documents(50, 1);
  std::vector<std::string> both = Public();
  both.insert(both.end(), own.begin(), own.begin() + 10);
  const auto result = ScorePublicText(own, both);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->own, 40);
  EXPECT_EQ(result->other, 80);
  EXPECT_EQ(result->scores.size(), 90u);  // scored all the same
}

TEST(ProxyTest, AHalfWithoutASideIsRefused) {
  const auto none = ScorePublicText({}, Public());
  EXPECT_THAT(std::string(none.status().message()),
              HasSubstr("0 own documents and 80 public ones"));
  EXPECT_FALSE(ScorePublicText({"one"}, Public()).ok());
}

TEST(ProxyTest, ChoosesTheHighestOfEachAndAsManyOthers) {
  // Ten documents; the first owner likes 9 and 8, the second 0 and 9.
  std::vector<float> one(10, 0.0f), two(10, -1.0f);
  one[9] = 3, one[8] = 2;
  two[0] = 5, two[9] = 4;
  const std::vector<int64_t> chosen = ChooseProxy({one, two}, 10, 2, 1);
  EXPECT_EQ(chosen.size(), 6u);  // 0, 8, 9 and three more
  for (const int64_t i : {0, 8, 9}) {
    EXPECT_TRUE(std::count(chosen.begin(), chosen.end(), i) == 1) << i;
  }
  EXPECT_TRUE(std::is_sorted(chosen.begin(), chosen.end()));
  std::set<std::vector<int64_t>> draws;
  for (uint64_t seed = 1; seed < 9; ++seed) {
    draws.insert(ChooseProxy({one, two}, 10, 2, seed));
  }
  EXPECT_GT(draws.size(), 1u);
  // Ties to the lowest; what was not scored is not chosen for its owner; no
  // more than there are.
  EXPECT_THAT(ChooseProxy({{1, 1, 1, kNone}}, 4, 1, 1),
              testing::Contains(0));
  EXPECT_THAT(ChooseProxy({{kNone, kNone, 1}}, 3, 3, 1), testing::SizeIs(2));
  EXPECT_THAT(ChooseProxy({one}, 10, 100, 1),
              ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
}

}  // namespace
}  // namespace motet::learn
