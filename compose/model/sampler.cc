// SPDX-License-Identifier: Apache-2.0
#include "compose/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace motet::model {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

double Value(float logit) { return std::isnan(logit) ? kNever : logit; }

int32_t Likeliest(std::span<const float> logits) {
  int32_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (Value(logits[i]) > Value(logits[best])) best = static_cast<int32_t>(i);
  }
  return best;
}

double LogSumExp(std::span<const float> logits) {
  if (logits.empty()) return kNever;
  const double top = Value(logits[Likeliest(logits)]);
  if (std::isinf(top)) return top;
  double sum = 0;
  for (float logit : logits) sum += std::exp(Value(logit) - top);
  return top + std::log(sum);
}

// SplitMix64's finaliser: every bit of x reaches every bit of the result.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

struct Candidate {
  int32_t id;
  double weight;  // exp(logit / temperature - that of the likeliest)
};

// The `keep` heaviest come first in descending order, ties to the lower id.
void SortHeaviest(std::vector<Candidate>& candidates, size_t keep) {
  std::partial_sort(
      candidates.begin(), candidates.begin() + keep, candidates.end(),
      [](const Candidate& a, const Candidate& b) {
        return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
      });
}

double Total(const std::vector<Candidate>& candidates) {
  return std::accumulate(
      candidates.begin(), candidates.end(), 0.0,
      [](double sum, const Candidate& c) { return sum + c.weight; });
}

void KeepTopP(std::vector<Candidate>& candidates, double top_p) {
  SortHeaviest(candidates, candidates.size());
  const double enough = top_p * Total(candidates);
  double sum = 0;
  size_t keep = 0;
  while (keep < candidates.size() && (keep == 0 || sum < enough)) {
    sum += candidates[keep++].weight;
  }
  candidates.resize(keep);
}

}  // namespace

double UniformAt(uint64_t seed, uint64_t position) {
  const uint64_t bits = Mix(Mix(Mix(seed) + position));
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

int32_t Sample(std::span<const float> logits, const SamplerOptions& options,
               uint64_t position) {
  if (logits.empty()) return 0;
  const int32_t best = Likeliest(logits);
  const double top = Value(logits[best]);
  if (std::isinf(top) || !(options.temperature > 0)) return best;
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double weight =
        std::exp((Value(logits[i]) - top) / options.temperature);
    if (weight > 0) candidates.push_back({static_cast<int32_t>(i), weight});
  }
  if (options.top_k > 0 &&
      options.top_k < static_cast<int64_t>(candidates.size())) {
    SortHeaviest(candidates, options.top_k);
    candidates.resize(options.top_k);
  }
  if (options.top_p < 1) KeepTopP(candidates, options.top_p);
  if (options.min_p > 0) {
    // The likeliest weighs 1, so a share of it is a weight.
    const double least = std::min(options.min_p, 1.0);
    std::erase_if(candidates,
                  [&](const Candidate& c) { return c.weight < least; });
  }
  double left = UniformAt(options.seed, position) * Total(candidates);
  for (const Candidate& candidate : candidates) {
    left -= candidate.weight;
    if (left < 0) return candidate.id;
  }
  return candidates.back().id;  // rounding of the sum
}

double LogProbability(std::span<const float> logits, int32_t id) {
  if (id < 0 || static_cast<size_t>(id) >= logits.size()) return kNever;
  return Value(logits[id]) - LogSumExp(logits);
}

std::vector<std::pair<int32_t, double>> TopLogProbabilities(
    std::span<const float> logits, int n) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const size_t keep = std::min(ids.size(), static_cast<size_t>(std::max(n, 0)));
  std::partial_sort(ids.begin(), ids.begin() + keep, ids.end(),
                    [&](int32_t a, int32_t b) {
                      const double x = Value(logits[a]), y = Value(logits[b]);
                      return x != y ? x > y : a < b;
                    });
  const double lse = LogSumExp(logits);
  std::vector<std::pair<int32_t, double>> out;
  for (size_t i = 0; i < keep; ++i) {
    out.emplace_back(ids[i], Value(logits[ids[i]]) - lse);
  }
  return out;
}

}  // namespace motet::model
