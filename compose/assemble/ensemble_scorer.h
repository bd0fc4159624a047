// SPDX-License-Identifier: Apache-2.0
// Several models as one scorer: each runs, their next-token probabilities are
// mixed [METHODS 4]. What the mixture carries from token to token (the
// posterior of its models; the prefix's mean) lies in the sequence's state
// beside their caches and is a function of the models and the sequence alone.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "compose/model/scorer.h"

namespace motet::assemble {

struct EnsembleRule {
  enum class Weights : uint8_t {
    kFixed,     // the prior, whatever the text: all alike, or learnt before
    kBayes,     // the posterior, from the prior on
    kCentroid,  // by nearness of the prefix's mean to the models' centres
  };
  Weights weights = Weights::kBayes;
  int64_t top_k = 0;          // of the weights, renormalised; 0 = every model
  std::vector<double> prior;  // [J], up to a factor; empty = all alike
  // centroid: who reads the prefix (null: the first of the models), and where
  // the models lie among its router inputs: [L] of [J,C], each of norm 1.
  std::shared_ptr<const model::DecoderScorer> reader;
  std::vector<std::vector<float>> centres;
  double temperature = 0.1;
};

// models: one or more, of one vocabulary, in the order of their sums.
// A single model's logits are handed on as they are. Weights are a double
// each; where all but one are 0, that model's logits are the mixture's. With
// fixed weights the models that top_k leaves out do not run.
class EnsembleScorer : public model::Scorer {
 public:
  using Models = std::vector<std::shared_ptr<const model::DecoderScorer>>;
  EnsembleScorer(Models models, EnsembleRule rule);

  const model::ModelConfig& config() const override {
    return models_[0]->config();
  }
  std::unique_ptr<model::ScorerState> NewState(int64_t capacity) const override;
  // A cache of every model, and its last logits.
  int64_t StateBytes(int64_t capacity) const override;
  void Run(math::Exec& exec, std::span<const model::ScorerInput> inputs,
           std::span<const model::RowRange> wanted,
           const model::LogitsSink& sink) const override;

 private:
  const model::DecoderScorer& reader() const {
    return rule_.reader != nullptr ? *rule_.reader : *models_[0];
  }
  // Squared distances [M,J] of every row's prefix to the centres; the reader's
  // hidden states.
  std::vector<double> Distances(math::Exec& exec,
                                std::span<const model::ScorerInput> inputs,
                                math::Tensor* hidden) const;

  Models models_;
  EnsembleRule rule_;
};

}  // namespace motet::assemble
