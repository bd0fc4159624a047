// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/ensemble.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "compose/math/tensor.h"

namespace motet::assemble {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

// exp(x_j) / sum_i exp(x_i); all 0 when every x is -inf.
std::vector<double> Softmax(std::vector<double> x) {
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double& value : x) {
    value = top == kNever ? 0 : std::exp(value - top);
    sum += value;
  }
  if (sum > 0) {
    for (double& value : x) value /= sum;
  }
  return x;
}

}  // namespace

double LogSumExp(std::span<const float> x) {
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const float value : x) sum += std::exp(double{value} - top);
  return top + std::log(sum);
}

Posterior::Posterior(std::span<const double> prior)
    : log_likelihood_(prior.size(), 0) {
  MOTET_CHECK(!prior.empty());
  double sum = 0;
  for (const double p : prior) {
    MOTET_CHECK(p >= 0);
    sum += p;
    log_prior_.push_back(p > 0 ? std::log(p) : kNever);
  }
  MOTET_CHECK(sum > 0 && std::isfinite(sum));
}

Posterior Posterior::Uniform(size_t models) {
  return Posterior(std::vector<double>(models, 1.0));
}

void Posterior::Observe(std::span<const double> log_p) {
  MOTET_CHECK(log_p.size() == log_likelihood_.size());
  for (size_t j = 0; j < log_p.size(); ++j) log_likelihood_[j] += log_p[j];
}

std::vector<double> Posterior::Weights() const {
  std::vector<double> sum(log_prior_);
  for (size_t j = 0; j < sum.size(); ++j) sum[j] += log_likelihood_[j];
  const bool possible =
      std::any_of(sum.begin(), sum.end(), [](double x) { return x > kNever; });
  return Softmax(possible ? std::move(sum) : log_prior_);
}

void UpdatePrior(std::span<const double> posterior, std::span<double> prior,
                 double rate) {
  MOTET_CHECK(posterior.size() == prior.size());
  MOTET_CHECK(rate > 0 && rate <= 1);
  for (size_t j = 0; j < prior.size(); ++j) {
    prior[j] = rate * posterior[j] + (1 - rate) * prior[j];
  }
}

void KeepLargest(int64_t k, std::span<double> weights) {
  MOTET_CHECK(k >= 1);
  const auto used = static_cast<int64_t>(
      std::count_if(weights.begin(), weights.end(),
                    [](double w) { return w != 0; }));
  if (k >= used) return;
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return weights[a] > weights[b];
  });
  for (size_t i = static_cast<size_t>(k); i < order.size(); ++i) {
    weights[order[i]] = 0;
  }
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& w : weights) w /= sum;
}

std::vector<double> CentroidWeights(std::span<const float> h,
                                    std::span<const float> centres,
                                    double temperature) {
  MOTET_CHECK(!h.empty() && !centres.empty());
  MOTET_CHECK(centres.size() % h.size() == 0 && temperature > 0);
  std::vector<double> distances;
  for (size_t at = 0; at < centres.size(); at += h.size()) {
    distances.push_back(SquaredDistance(h, centres.subspan(at, h.size())));
  }
  return DistanceWeights(distances, temperature);
}

std::vector<double> DistanceWeights(std::span<const double> distances,
                                    double temperature) {
  std::vector<double> x;
  for (const double d : distances) x.push_back(-d / temperature);
  return Softmax(std::move(x));
}

double SquaredDistance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t c = 0; c < a.size(); ++c) {
    const double d = double{a[c]} - double{b[c]};
    sum += d * d;
  }
  return sum;
}

void MixLogits(std::span<const std::span<const float>> logits,
               std::span<const double> weights, std::span<float> out) {
  std::vector<double> sums(logits.size());
  for (size_t j = 0; j < weights.size(); ++j) {
    if (weights[j] != 0) sums[j] = LogSumExp(logits[j]);
  }
  MixLogits(logits, sums, weights, out);
}

void MixLogits(std::span<const std::span<const float>> logits,
               std::span<const double> sums, std::span<const double> weights,
               std::span<float> out) {
  MOTET_CHECK(logits.size() == weights.size());
  std::vector<size_t> used;
  std::vector<double> shift;  // ln w_j - logsumexp(logits_j)
  for (size_t j = 0; j < weights.size(); ++j) {
    if (weights[j] == 0) continue;
    MOTET_CHECK(weights[j] > 0 && logits[j].size() == out.size());
    used.push_back(j);
  }
  MOTET_CHECK(!used.empty());
  if (used.size() == 1) {
    const std::span<const float> only = logits[used[0]];
    if (only.data() != out.data()) {
      std::copy(only.begin(), only.end(), out.begin());
    }
    return;
  }
  for (const size_t j : used) {
    shift.push_back(std::log(weights[j]) - sums[j]);
  }
  for (size_t v = 0; v < out.size(); ++v) {
    double top = kNever;
    for (size_t i = 0; i < used.size(); ++i) {
      top = std::max(top, shift[i] + double{logits[used[i]][v]});
    }
    double sum = 0;
    for (size_t i = 0; top > kNever && i < used.size(); ++i) {
      sum += std::exp(shift[i] + double{logits[used[i]][v]} - top);
    }
    out[v] = static_cast<float>(top > kNever ? top + std::log(sum) : kNever);
  }
}

}  // namespace motet::assemble
