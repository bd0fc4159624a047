// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/choice.h"

#include <cmath>

#include "compose/model/sampler.h"
#include "gmock/gmock.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::measure {
namespace {

using assemble::LogitsOf;
using assemble::TinyFederation;
using testing::HasSubstr;

class ChoiceTest : public testing::Test {
 protected:
  absl::StatusOr<std::vector<Question>> Read(const std::string& text) const {
    const std::string path = federation_.Path("questions.jsonl");
    EXPECT_TRUE(proto::WriteFileAtomic(path, text).ok());
    return ReadQuestions(path);
  }
  TinyFederation federation_;
  std::unique_ptr<assemble::Composition> composition_ =
      federation_.Load(federation_.Lock());
};

TEST(JudgeTest, ThreeWaysToCount) {
  // Two characters of three bytes each against three of one.
  const std::vector<Question> questions = {
      {"q", {"\xE2\x82\xAC\xE2\x82\xAC", "abc"}, 0},
      {"q", {"\xE2\x82\xAC\xE2\x82\xAC", "abc"}, 1}};
  // Plain: the second. A character: -1.55, -1.03: the second. A byte: -0.52,
  // -1.03: the first.
  const ChoiceScore score = Judge(questions, {{-3.1, -3.09}, {-3.1, -3.09}});
  EXPECT_EQ(score.acc.value, 0.5);
  const ChoiceScore first =
      Judge({questions[0], questions[0]}, {{-3.1, -3.09}, {-3.1, -3.2}});
  EXPECT_EQ(first.acc.value, 0.5);
  EXPECT_EQ(first.acc_norm.value, 0);
  EXPECT_EQ(first.acc_bytes.value, 1);
  EXPECT_DOUBLE_EQ(first.acc.stderror, 0.5);  // sqrt(.5 .5 / 1)
  // A tie goes to the first.
  EXPECT_EQ(Judge({questions[1]}, {{-3, -3}}).acc.value, 0);
  EXPECT_EQ(Judge({questions[0]}, {{-3, -3}}).acc.stderror, 0);
}

// Token by token from the plain logits, each choice by itself.
TEST_F(ChoiceTest, EqualsTheSumByHand) {
  const auto questions = Read(
      "{\"query\": \"The licensee may  \", \"choices\": [\"copy the work\", "
      "\"sing\", \"print more and more\"], \"gold\": \"sing\"}\n\n"
      "{\"query\": \"int main\", \"choices\": [\"()\", \"{ return\"], "
      "\"gold\": 0, \"id\": 7}\n");
  ASSERT_TRUE(questions.ok()) << questions.status();
  ASSERT_EQ(questions->size(), 2u);
  EXPECT_EQ((*questions)[0].gold, 1u);
  const auto score = ScoreChoices(*composition_, *questions, {});
  ASSERT_TRUE(score.ok()) << score.status();
  const auto& tokenizer = composition_->tokenizer();
  const auto vocabulary = static_cast<size_t>(composition_->config.vocabulary);
  const char* const queries[] = {"The licensee may", "int main"};
  const char* const between[] = {"   ", " "};
  for (size_t q = 0; q < 2; ++q) {
    const Question& question = (*questions)[q];
    ASSERT_EQ(score->log_likelihoods[q].size(), question.choices.size());
    for (size_t c = 0; c < question.choices.size(); ++c) {
      const auto ids =
          tokenizer.Encode(std::string(queries[q]) + between[q] +
                           question.choices[c]);
      const size_t from = tokenizer.Encode(queries[q]).size();
      const auto logits =
          LogitsOf(*composition_->decoder, ids, composition_->All());
      double sum = 0;
      for (size_t t = from; t < ids.size(); ++t) {
        sum += model::LogProbability(
            {logits.data() + (t - 1) * vocabulary, vocabulary}, ids[t]);
      }
      EXPECT_NEAR(score->log_likelihoods[q][c], sum, 1e-4);
    }
  }
  // By itself, in another batch: the same bits.
  const auto alone = ScoreChoices(*composition_, {(*questions)[1]}, {});
  ASSERT_TRUE(alone.ok());
  EXPECT_EQ(alone->log_likelihoods[0], score->log_likelihoods[1]);
}

// In a merge, an excluded expert is one that was never merged.
TEST(ChoiceMergeTest, ASetAnswersAsItWasComposed) {
  assemble::TinyOptions dense;
  dense.dense = true;
  const assemble::TinyFederation federation(dense);
  const auto load = [&](const std::vector<int>& which) {
    const auto parts = federation.Experts(which);
    auto recipe = assemble::TinyFederation::RecipeFor(parts);
    recipe.method = "merge";
    return federation.Load(
        assemble::MakePlan(recipe, federation.base(), parts).lock);
  };
  const auto both = load({0, 1});
  const std::vector<Question> questions = {{"int main", {"()", "sing"}, 0}};
  ChoiceOptions without;
  without.allowed = math::ExpertMask{1} | math::ExpertMask{2};
  const auto all = ScoreChoices(*both, questions, {});
  const auto some = ScoreChoices(*both, questions, without);
  const auto alone = ScoreChoices(*load({0}), questions, {});
  ASSERT_TRUE(all.ok() && some.ok() && alone.ok()) << some.status();
  EXPECT_EQ(some->log_likelihoods, alone->log_likelihoods);
  EXPECT_NE(some->log_likelihoods, all->log_likelihoods);
}

TEST_F(ChoiceTest, ALongQueryLosesItsBeginning) {
  Question question{std::string(2000, 'x') + "the end of it",
                    {"is near", "is not"}, 0};
  const auto score = ScoreChoices(*composition_, {question}, {});
  ASSERT_TRUE(score.ok()) << score.status();
  question.query = std::string(3000, 'x') + "the end of it";
  const auto longer = ScoreChoices(*composition_, {question}, {});
  ASSERT_TRUE(longer.ok());
  EXPECT_EQ(longer->log_likelihoods, score->log_likelihoods);
  question.choices[1] = std::string(2000, 'y');
  EXPECT_THAT(std::string(ScoreChoices(*composition_, {question}, {})
                              .status()
                              .message()),
              HasSubstr("question 1"));
}

TEST_F(ChoiceTest, BadLinesNameTheField) {
  const struct {
    const char *line, *says;
  } cases[] = {
      {"[1]", "no JSON object"},
      {"{\"query\": \"a\", \"choices\": [\"b\", \"c\"]}", "no \"gold\""},
      {"{\"query\": \" \", \"choices\": [\"b\", \"c\"], \"gold\": 0}",
       "\"query\""},
      {"{\"query\": \"a\", \"choices\": [\"b\"], \"gold\": 0}",
       "1 \"choices\""},
      {"{\"query\": \"a\", \"choices\": [\"b\", 3], \"gold\": 0}",
       "\"choices\"[1]"},
      {"{\"query\": \"a\", \"choices\": [\"b\", \"\"], \"gold\": 0}",
       "\"choices\"[1]"},
      {"{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 2}",
       "\"gold\": 2"},
      {"{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": -1}",
       "\"gold\": -1"},
      {"{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": \"d\"}",
       "\"gold\": \"d\""},
      {"", "no question"},
  };
  for (const auto& c : cases) {
    const auto read = Read(std::string(c.line) + "\n");
    ASSERT_FALSE(read.ok()) << c.line;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(c.says));
  }
  EXPECT_THAT(std::string(Read("\n{}\n").status().message()),
              HasSubstr("questions.jsonl:2"));
}

}  // namespace
}  // namespace motet::measure
