// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/pilots.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "compose/learn/hash.h"
#include "compose/math/tensor.h"
#include "compose/retrieve/dot.h"

namespace motet::retrieve {
namespace {

double Length(const float* vector, int64_t width) {
  return std::sqrt(BestDot()(vector, vector, width));
}

// 0 where one has no length.
double Cosine(double product, double lengths) {
  return lengths > 0 ? product / lengths : 0;
}

}  // namespace

std::vector<int> BestExperts(std::span<const double> scores, int64_t experts,
                             int own) {
  std::vector<int> best;
  for (size_t at = 0; at < scores.size(); at += static_cast<size_t>(experts)) {
    const auto of = scores.subspan(at, static_cast<size_t>(experts));
    const auto first = std::max_element(of.begin(), of.end());
    const bool tied = own >= 0 && of[static_cast<size_t>(own)] == *first;
    best.push_back(tied ? own : static_cast<int>(first - of.begin()));
  }
  return best;
}

MadePilots MakePilots(std::span<const double> scores,
                      std::span<const float> vectors, int64_t experts,
                      int64_t width, const PilotOptions& options) {
  MadePilots made;
  if (experts == 0) return made;
  const int64_t queries = static_cast<int64_t>(scores.size()) / experts;
  MOTET_CHECK(static_cast<int64_t>(scores.size()) == queries * experts);
  MOTET_CHECK(static_cast<int64_t>(vectors.size()) == queries * width);
  MOTET_CHECK(options.own < experts);
  made.scorings = queries * experts;
  std::vector<std::vector<double>> sums(
      static_cast<size_t>(experts),
      std::vector<double>(static_cast<size_t>(width)));
  std::vector<int64_t> counts(static_cast<size_t>(experts));
  const std::vector<int> chosen = BestExperts(scores, experts, options.own);
  for (int64_t q = 0; q < queries; ++q) {
    const auto best = static_cast<size_t>(chosen[static_cast<size_t>(q)]);
    ++counts[best];
    const float* vector = vectors.data() + q * width;
    for (int64_t c = 0; c < width; ++c) sums[best][c] += vector[c];
  }
  for (size_t e = 0; e < sums.size(); ++e) {
    if (counts[e] == 0) continue;
    if (counts[e] < options.min_queries) {
      ++made.withheld;
      continue;
    }
    PilotGroup& group = made.groups.emplace_back();
    group.expert = static_cast<int>(e);
    group.queries = counts[e];
    const uint64_t stream = learn::Mix(options.seed + e);
    for (size_t c = 0; c < sums[e].size(); ++c) {
      double mean = sums[e][c] / static_cast<double>(counts[e]);
      if (options.noise > 0) mean += options.noise * learn::Normal(stream, c);
      group.mean.push_back(static_cast<float>(mean));
    }
  }
  return made;
}

void SetGates(std::span<const double> scores, std::span<const float> vectors,
              int64_t experts, int64_t width, int own, double share,
              MadePilots& made) {
  MOTET_CHECK(share >= 0 && share < 1);
  const Dot dot = BestDot();
  const std::vector<int> best = BestExperts(scores, experts, own);
  for (PilotGroup& group : made.groups) {
    const float* pilot = group.mean.data();
    const double length = Length(pilot, width);
    std::vector<double> cosines;
    for (size_t q = 0; q < best.size(); ++q) {
      if (best[q] != group.expert) continue;
      const float* vector = vectors.data() + q * static_cast<size_t>(width);
      const double cosine = Cosine(dot(vector, pilot, width),
                                   length * Length(vector, width));
      cosines.push_back(std::isnan(cosine) ? -1 : cosine);  // beyond f32
    }
    MOTET_CHECK(!cosines.empty());
    const auto at =
        cosines.begin() +
        static_cast<int64_t>(share * static_cast<double>(cosines.size()));
    std::nth_element(cosines.begin(), at, cosines.end());
    // Of a vector with itself rounding makes a little more than 1.
    group.gate = std::clamp(*at, -1.0, 1.0);
  }
}

PilotRouter::PilotRouter(std::vector<float> pilots, std::vector<int> experts,
                         int64_t width, Similarity similarity,
                         Aggregate aggregate, std::vector<int64_t> queries,
                         std::vector<double> gates)
    : pilots_(std::move(pilots)),
      experts_(std::move(experts)),
      queries_(std::move(queries)),
      width_(width),
      similarity_(similarity),
      aggregate_(aggregate),
      gates_(std::move(gates)) {
  MOTET_CHECK(pilots_.size() == experts_.size() * static_cast<size_t>(width));
  if (aggregate_ != Aggregate::kWeighted) queries_.assign(experts_.size(), 1);
  MOTET_CHECK(queries_.size() == experts_.size());
  MOTET_CHECK(gates_.empty() || gates_.size() == experts_.size());
  if (similarity_ != Similarity::kCosine && gates_.empty()) return;
  for (size_t i = 0; i < experts_.size(); ++i) {
    lengths_.push_back(
        Length(pilots_.data() + i * static_cast<size_t>(width_), width_));
  }
}

bool PilotRouter::LetsIn(std::span<const float> query) const {
  if (gates_.empty()) return true;
  const Dot dot = BestDot();
  const double length = Length(query.data(), width_);
  for (size_t i = 0; i < gates_.size(); ++i) {
    const float* pilot = pilots_.data() + i * static_cast<size_t>(width_);
    if (Cosine(dot(query.data(), pilot, width_), length * lengths_[i]) >=
        gates_[i]) {
      return true;
    }
  }
  return false;
}

std::vector<PilotRouter::Score> PilotRouter::Scores(
    std::span<const float> query) const {
  const Dot dot = BestDot();
  const double length =
      similarity_ == Similarity::kCosine ? Length(query.data(), width_) : 1;
  struct Sum {
    double value = 0;
    double n = 0;
  };
  std::map<int, Sum> sums;
  // In the order of the pilots, which is the same with others left out.
  for (size_t i = 0; i < experts_.size(); ++i) {
    double similarity =
        dot(query.data(), pilots_.data() + i * static_cast<size_t>(width_),
            width_);
    if (similarity_ == Similarity::kCosine) {
      similarity = Cosine(similarity, length * lengths_[i]);
    }
    Sum& sum = sums[experts_[i]];
    if (aggregate_ != Aggregate::kMax) {
      sum.value += static_cast<double>(queries_[i]) * similarity;
    } else if (sum.n == 0 || similarity > sum.value) {
      sum.value = similarity;
    }
    sum.n += static_cast<double>(queries_[i]);
  }
  std::vector<Score> scores;
  for (const auto& [expert, sum] : sums) {
    scores.push_back({expert, aggregate_ != Aggregate::kMax
                                  ? sum.value / sum.n
                                  : sum.value});
  }
  return scores;
}

std::vector<int> PilotRouter::Route(std::span<const float> queries) const {
  std::vector<int> route;
  const auto width = static_cast<size_t>(width_);
  for (size_t at = 0; at < queries.size(); at += width) {
    Score best{-1, 0};
    const auto query = queries.subspan(at, width);
    if (!LetsIn(query)) {
      route.push_back(-1);
      continue;
    }
    for (const Score& score : Scores(query)) {
      if (std::isnan(score.score)) continue;  // of numbers beyond f32
      if (best.expert < 0 || score.score > best.score) best = score;
    }
    route.push_back(best.expert);
  }
  return route;
}

}  // namespace motet::retrieve
