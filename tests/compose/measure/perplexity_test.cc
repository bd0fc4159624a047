// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/perplexity.h"

#include <cmath>

#include "compose/model/sampler.h"
#include "gtest/gtest.h"
#include "tests/compose/assemble/tiny.h"

namespace motet::measure {
namespace {

using assemble::LogitsOf;
using assemble::TinyFederation;

std::vector<std::string> Documents(int n) {
  std::vector<std::string> documents;
  for (int i = 0; i < n; ++i) {
    for (const auto& text : TinyFederation::Documents()) {
      documents.push_back(text);
    }
  }
  return documents;
}

class PerplexityTest : public testing::Test {
 protected:
  PerplexityTest()
      : composition_(federation_.Load(federation_.Lock())),
        windows_(composition_->tokenizer(), Documents(3),
                 composition_->tokenizer().IdOf("<|endoftext|>"), 24) {}
  TinyFederation federation_;
  std::unique_ptr<assemble::Composition> composition_;
  learn::TokenWindows windows_;
};

// Window by window, token by token, from the plain logits.
TEST_F(PerplexityTest, EqualsTheSumByHand) {
  ASSERT_GT(windows_.count(), 3);
  double nll = 0;
  int64_t tokens = 0;
  const int64_t vocabulary = composition_->config.vocabulary;
  for (int64_t i = 0; i < windows_.count(); ++i) {
    const std::vector<int32_t> ids(windows_.at(i).begin(),
                                   windows_.at(i).end());
    const auto logits =
        LogitsOf(*composition_->decoder, ids, composition_->All());
    for (size_t t = 1; t < ids.size(); ++t) {
      nll -= model::LogProbability(
          {logits.data() + (t - 1) * vocabulary,
           static_cast<size_t>(vocabulary)},
          ids[t]);
      ++tokens;
    }
  }
  ScoreOptions options;
  options.allowed = composition_->All();
  const auto score = ScoreWindows(*composition_->decoder, windows_, options);
  ASSERT_TRUE(score.ok()) << score.status();
  EXPECT_EQ(score->tokens, tokens);
  EXPECT_EQ(score->tokens, windows_.count() * 23);
  EXPECT_NEAR(score->nll, nll, 1e-4 * nll);
  EXPECT_NEAR(score->Perplexity(), std::exp(nll / tokens), 1e-2);
}

TEST_F(PerplexityTest, DoesNotDependOnTheBatch) {
  ScoreOptions one, many;
  one.batch_rows = 1;
  many.batch_rows = 100;
  const auto a = ScoreWindows(*composition_->decoder, windows_, one);
  const auto b = ScoreWindows(*composition_->decoder, windows_, many);
  ASSERT_TRUE(a.ok() && b.ok());
  // The sum's grouping differs, the numbers in it do not.
  EXPECT_NEAR(a->nll, b->nll, 1e-9 * a->nll);
}

TEST_F(PerplexityTest, CapLeavesWholeWindows) {
  EXPECT_EQ(CappedWindows(windows_, 0), windows_.count());
  EXPECT_EQ(CappedWindows(windows_, 50), 2);
  EXPECT_EQ(CappedWindows(windows_, 1), 1);
  EXPECT_EQ(CappedWindows(windows_, 1 << 30), windows_.count());
  ScoreOptions options;
  options.max_tokens = 50;
  int64_t reported = 0;
  options.progress = [&](int64_t tokens) { reported += tokens; };
  const auto score = ScoreWindows(*composition_->decoder, windows_, options);
  ASSERT_TRUE(score.ok());
  EXPECT_EQ(score->tokens, 2 * 23);
  EXPECT_EQ(reported, 2 * 24);
}

TEST_F(PerplexityTest, IdsThatTheModelDoesNotHaveAreErrors) {
  const std::vector<int32_t> ids = {0, 4, 5};
  EXPECT_TRUE(CheckIds(ids, 6).ok());
  EXPECT_FALSE(CheckIds(ids, 5).ok());
  const int64_t vocabulary = composition_->config.vocabulary;
  const learn::TokenWindows windows(composition_->tokenizer(), Documents(3),
                                    static_cast<int32_t>(vocabulary), 24);
  EXPECT_EQ(ScoreWindows(*composition_->decoder, windows).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(PerplexityTest, TooLittleTextAndTooLongWindowsAreErrors) {
  const learn::TokenWindows none(composition_->tokenizer(), {"a"}, 0, 24);
  EXPECT_FALSE(ScoreWindows(*composition_->decoder, none).ok());
  const learn::TokenWindows longer(composition_->tokenizer(), Documents(20), 0,
                                   300);
  ASSERT_GT(longer.count(), 0);
  EXPECT_FALSE(ScoreWindows(*composition_->decoder, longer).ok());
}

}  // namespace
}  // namespace motet::measure
