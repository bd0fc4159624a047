// SPDX-License-Identifier: Apache-2.0
// Ensembles against the fixture methods/ensemble: posteriors over prefixes,
// the mixture and its top 2, the simple average, c-BTM's weights, the prior
// learnt from posteriors.
#include "compose/assemble/ensemble.h"

#include <cmath>
#include <string>
#include <vector>

#include "compose/model/sampler.h"
#include "gtest/gtest.h"
#include "tests/golden/fixtures.h"

namespace motet::golden {
namespace {

constexpr double kTolerance = 1e-5;

class EnsembleTest : public testing::Test {
 protected:
  void SetUp() override {
    MOTET_GOLDEN_OR_SKIP();
    fixture_ = std::make_unique<Fixture>("methods/ensemble");
    ASSERT_TRUE(fixture_->ok());
    const math::Shape shape = fixture_->ShapeOf("log_probs");
    models_ = static_cast<size_t>(shape.dim[0]);
    tokens_ = static_cast<size_t>(shape.dim[1]);
    vocabulary_ = static_cast<size_t>(shape.dim[2]);
    log_probs_ = fixture_->Floats("log_probs");
    ids_ = fixture_->Ids("ids");
  }

  // What model j says about token t, as logits: any constant may be added.
  std::span<const float> Row(size_t j, size_t t) const {
    return std::span(log_probs_)
        .subspan((j * tokens_ + t) * vocabulary_, vocabulary_);
  }
  // The mixture at t, shifted model by model as logits would be.
  std::vector<float> Mix(size_t t, const std::vector<double>& weights) const {
    std::vector<std::vector<float>> rows;
    for (size_t j = 0; j < models_; ++j) {
      rows.emplace_back(Row(j, t).begin(), Row(j, t).end());
      for (float& x : rows.back()) x += static_cast<float>(j) - 0.5f;
    }
    const std::vector<std::span<const float>> views(rows.begin(), rows.end());
    std::vector<float> out(vocabulary_);
    assemble::MixLogits(views, weights, out);
    return out;
  }
  // weights_of(posterior at t) for every t; the mixtures are appended.
  template <typename WeightsOf>
  std::vector<float> Run(const WeightsOf& weights_of,
                         std::vector<float>* posteriors = nullptr) const {
    std::vector<float> mixtures;
    const auto prior = fixture_->Doubles("prior");
    assemble::Posterior posterior(prior);
    for (size_t t = 0; t < tokens_; ++t) {
      const std::vector<double> post = posterior.Weights();
      if (posteriors != nullptr) {
        posteriors->insert(posteriors->end(), post.begin(), post.end());
      }
      const auto mixed = Mix(t, weights_of(post));
      mixtures.insert(mixtures.end(), mixed.begin(), mixed.end());
      std::vector<double> log_p;
      for (size_t j = 0; j < models_; ++j) {
        log_p.push_back(model::LogProbability(Row(j, t), ids_[t]));
      }
      posterior.Observe(log_p);
    }
    return mixtures;
  }

  std::unique_ptr<Fixture> fixture_;
  size_t models_ = 0, tokens_ = 0, vocabulary_ = 0;
  std::vector<float> log_probs_;
  std::vector<int32_t> ids_;
};

TEST_F(EnsembleTest, BayesPosteriorAndMixture) {
  std::vector<float> posteriors;
  const auto mixtures =
      Run([](const std::vector<double>& post) { return post; }, &posteriors);
  EXPECT_TRUE(Close(posteriors, fixture_->Doubles("posterior"), kTolerance));
  EXPECT_TRUE(Close(mixtures, fixture_->Doubles("mixture"), kTolerance));
}

TEST_F(EnsembleTest, TopTwoRenormalised) {
  const auto mixtures = Run([](std::vector<double> post) {
    assemble::KeepLargest(2, post);
    return post;
  });
  EXPECT_TRUE(Close(mixtures, fixture_->Doubles("mixture_top2"), kTolerance));
}

TEST_F(EnsembleTest, SimpleAverage) {
  const auto mixtures = Run([this](const std::vector<double>&) {
    return std::vector<double>(models_, 1.0 / static_cast<double>(models_));
  });
  EXPECT_TRUE(Close(mixtures, fixture_->Doubles("simple"), kTolerance));
}

TEST_F(EnsembleTest, CentroidWeights) {
  const auto hidden = fixture_->Floats("hidden");
  const auto centres = fixture_->Floats("centres");
  const size_t width = centres.size() / models_;
  std::vector<float> weights;
  for (size_t t = 0; t < tokens_; ++t) {
    const auto w = assemble::CentroidWeights(
        std::span(hidden).subspan(t * width, width), centres,
        fixture_->meta()["cbtm_T"].get<double>());
    weights.insert(weights.end(), w.begin(), w.end());
  }
  EXPECT_TRUE(Close(weights, fixture_->Doubles("cbtm_weights"), kTolerance));
}

TEST_F(EnsembleTest, CachedPrior) {
  const auto posteriors = fixture_->Doubles("dev_posteriors");
  std::vector<double> prior(models_, 1.0 / static_cast<double>(models_));
  for (size_t at = 0; at < posteriors.size(); at += models_) {
    assemble::UpdatePrior(std::span(posteriors).subspan(at, models_), prior);
  }
  const std::vector<float> got(prior.begin(), prior.end());
  EXPECT_TRUE(Close(got, fixture_->Doubles("cached_prior"), kTolerance));
}

}  // namespace
}  // namespace motet::golden
