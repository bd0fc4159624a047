// SPDX-License-Identifier: Apache-2.0
// The arithmetic of ensembles: what several models say about the next token,
// mixed in probability space by weights that the prefix gave [METHODS 4: BTM,
// c-BTM, HDEE]. Numbers in, numbers out, in double and in the models' order;
// it runs no model. A model whose weight is 0 need not be run at all.
// Threads: none. Checks: sizes, by MOTET_CHECK.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace motet::assemble {

// One sequence's belief in its models: J numbers beside its cache.
//   p(j | x<t) = p(x<t | j) p(j) / sum_i p(x<t | i) p(i)          [c-BTM eq. 3]
// before the first token the prior, normalised. The prior enters as it is,
// so a belief over some of the models does not depend on the others.
class Posterior {
 public:
  // prior: [J] p(j) >= 0, not all 0, up to a factor.
  explicit Posterior(std::span<const double> prior);
  static Posterior Uniform(size_t models);
  // log_p: [J] ln p(x_t | x<t, j) of the token that came.
  void Observe(std::span<const double> log_p);
  // [J], sums to 1. Where no model can have written the prefix (each gave a
  // token no probability), the prior's.
  std::vector<double> Weights() const;

 private:
  std::vector<double> log_prior_, log_likelihood_;  // [J]
};

// The prior, learnt from the posteriors of held-out sequences one by one:
//   prior_t = rate post_t + (1 - rate) prior_{t-1}
// from a uniform prior_0, about 100 sequences.          [HDEE; METHODS 4]
// Differs from the released code, which averages over test data.
// prior: [J] in and out.   posterior: [J].   rate: (0, 1].
void UpdatePrior(std::span<const double> posterior, std::span<double> prior,
                 double rate = 0.3);

// Keeps the k largest weights and makes them sum to 1; ties to the lowest
// model. Nothing changes when k leaves all that are not 0.
// weights: [J] in and out.   k: >= 1.
void KeepLargest(int64_t k, std::span<double> weights);

// Weights by nearness to the models' cluster centres, anew for each prefix:
//   w_j = softmax_j(-||h - c_j||^2 / temperature)                 [c-BTM eq. 4]
// h: [C] of the prefix.   centres: [J,C].   Returns [J], sums to 1.
std::vector<double> CentroidWeights(std::span<const float> h,
                                    std::span<const float> centres,
                                    double temperature = 0.1);

// The same where the squared distances [J] are known.
std::vector<double> DistanceWeights(std::span<const double> distances,
                                    double temperature);
//   sum_c (a_c - b_c)^2
double SquaredDistance(std::span<const float> a, std::span<const float> b);

// The mixture as logits that a sampler takes:
//   out_v = ln sum_j w_j softmax(logits_j)_v
// Where one model has all the weight, its logits as they are: an ensemble of
// one is that model, bit for bit. The simple average is w_j = 1/J.
// Differs from HDEE's released `simple_avg`, which averages log-probabilities.
// logits: J of [V] f32; those of weight 0 are not read and may be empty.
// weights: [J], sum to 1.   out: [V] f32, may alias any of the logits.
void MixLogits(std::span<const std::span<const float>> logits,
               std::span<const double> weights, std::span<float> out);
// The same where each model's LogSumExp(logits) is known.
void MixLogits(std::span<const std::span<const float>> logits,
               std::span<const double> sums, std::span<const double> weights,
               std::span<float> out);
//   ln sum_v exp(x_v)
double LogSumExp(std::span<const float> x);

}  // namespace motet::assemble
