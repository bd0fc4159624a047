// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/ensemble_scorer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "compose/assemble/ensemble.h"

namespace motet::assemble {
namespace {

using math::Tensor;
using model::RowRange;
using model::ScorerInput;
using model::ScorerState;

// A prefix's sums of the reader's router inputs.
struct PrefixSums {
  std::vector<std::vector<double>> sum;  // [L][C]; empty before the first
};

struct State : ScorerState {
  explicit State(Posterior start) : posterior(std::move(start)) {}
  std::vector<std::unique_ptr<ScorerState>> models;
  Posterior posterior;
  // What each model said after the last token: which token comes next tells
  // how likely the models made it. Empty before the first.
  std::vector<std::vector<float>> last;  // [J][V]
  std::unique_ptr<ScorerState> reader;
  PrefixSums prefix;
};
State* StateOf(const ScorerInput& input) {
  return static_cast<State*>(input.state);
}

std::span<const float> Row(const Tensor& logits, int64_t row) {
  return {logits.f32() + row * logits.cols(),
          static_cast<size_t>(logits.cols())};
}

// Where the rows of the inputs lie, and what token follows each.
struct Rows {
  explicit Rows(std::span<const ScorerInput> inputs) {
    for (size_t s = 0; s < inputs.size(); ++s) {
      const auto& ids = inputs[s].ids;
      for (size_t i = 0; i < ids.size(); ++i) {
        sequence.push_back(s);
        next.push_back(i + 1 < ids.size() ? ids[i + 1] : -1);
      }
    }
  }
  std::vector<size_t> sequence;
  std::vector<int32_t> next;  // -1: not known yet
};

Posterior StartOf(const EnsembleRule& rule, size_t models) {
  return rule.prior.empty() ? Posterior::Uniform(models)
                            : Posterior(rule.prior);
}

// Adds a row to a prefix's sum; the mean's direction comes back, norm 1.
void AddAndPoint(const float* row, std::vector<double>& sum,
                 std::vector<float>& direction) {
  double square = 0;
  for (size_t c = 0; c < sum.size(); ++c) {
    sum[c] += double{row[c]};
    square += sum[c] * sum[c];
  }
  const double scale = square > 0 ? 1 / std::sqrt(square) : 0;
  for (size_t c = 0; c < sum.size(); ++c) {
    direction[c] = static_cast<float>(sum[c] * scale);
  }
}

}  // namespace

EnsembleScorer::EnsembleScorer(Models models, EnsembleRule rule)
    : models_(std::move(models)), rule_(std::move(rule)) {
  MOTET_CHECK(!models_.empty());
  MOTET_CHECK(rule_.prior.empty() || rule_.prior.size() == models_.size());
  if (models_.size() == 1) {  // it has all the weight, whatever the rule
    rule_ = {EnsembleRule::Weights::kFixed, 0, {}, nullptr, {}, 0.1};
    return;
  }
  if (rule_.weights != EnsembleRule::Weights::kFixed || rule_.top_k == 0) {
    return;
  }
  std::vector<double> weights = StartOf(rule_, models_.size()).Weights();
  KeepLargest(rule_.top_k, weights);
  Models left;
  rule_.prior.clear();
  for (size_t j = 0; j < models_.size(); ++j) {
    if (weights[j] == 0) continue;
    left.push_back(models_[j]);
    rule_.prior.push_back(weights[j]);
  }
  models_ = std::move(left);
}

std::unique_ptr<ScorerState> EnsembleScorer::NewState(int64_t capacity) const {
  auto state = std::make_unique<State>(StartOf(rule_, models_.size()));
  for (const auto& model : models_) {
    state->models.push_back(model->NewState(capacity));
  }
  if (rule_.reader != nullptr) state->reader = rule_.reader->NewState(capacity);
  return state;
}

int64_t EnsembleScorer::StateBytes(int64_t capacity) const {
  int64_t bytes = 0;
  for (const auto& model : models_) {
    bytes += model->StateBytes(capacity);
    if (rule_.weights == EnsembleRule::Weights::kBayes) {
      bytes += config().vocabulary * static_cast<int64_t>(sizeof(float));
    }
  }
  if (rule_.reader != nullptr) bytes += rule_.reader->StateBytes(capacity);
  if (rule_.weights == EnsembleRule::Weights::kCentroid) {
    bytes +=
        config().layers * config().width * static_cast<int64_t>(sizeof(double));
  }
  return bytes;
}

// Of the mean over the layers, so that d^2 is from 0 to 4 whatever the base:
//   d_j^2 = 1/L sum_l |h_l / |h_l| - c_lj|^2
// h_l: the mean of layer l's router inputs over the prefix, the row included.
std::vector<double> EnsembleScorer::Distances(
    math::Exec& exec, std::span<const ScorerInput> inputs,
    Tensor* hidden) const {
  const size_t models = models_.size();
  std::vector<ScorerInput> own(inputs.begin(), inputs.end());
  std::vector<PrefixSums> prefixes;
  size_t total = 0;
  for (ScorerInput& input : own) {
    total += input.ids.size();
    State* state = StateOf(input);
    prefixes.push_back(state ? state->prefix : PrefixSums{});
    if (state == nullptr) continue;
    input.state = rule_.reader ? state->reader.get() : state->models[0].get();
  }
  const auto& config = reader().config();
  const auto layers = static_cast<size_t>(config.layers);
  const auto width = static_cast<size_t>(config.width);
  std::vector<double> distances(total * models);
  model::Trace trace;
  trace.visit = [&](int64_t layer) {
    const auto l = static_cast<size_t>(layer);
    const Tensor& h = trace.router_input[0];
    std::vector<float> direction(width);
    size_t row = 0;
    for (size_t s = 0; s < own.size(); ++s) {
      auto& sums = prefixes[s].sum;
      if (sums.empty()) sums.assign(layers, std::vector<double>(width));
      for (size_t i = 0; i < own[s].ids.size(); ++i, ++row) {
        AddAndPoint(h.f32() + row * width, sums[l], direction);
        for (size_t j = 0; j < models; ++j) {
          const auto centre =
              std::span(rule_.centres[l]).subspan(j * width, width);
          distances[row * models + j] +=
              SquaredDistance(direction, centre) / static_cast<double>(layers);
        }
      }
    }
  };
  *hidden = reader().Forward(exec, own, &trace);
  for (size_t s = 0; s < inputs.size(); ++s) {
    if (State* state = StateOf(inputs[s])) {
      state->prefix = std::move(prefixes[s]);
    }
  }
  return distances;
}

void EnsembleScorer::Run(math::Exec& exec, std::span<const ScorerInput> inputs,
                         std::span<const RowRange> wanted,
                         const model::LogitsSink& sink) const {
  const size_t models = models_.size();
  const math::Arena::Mark before = exec.arena().mark();
  const bool bayes = rule_.weights == EnsembleRule::Weights::kBayes;
  const bool centroid = rule_.weights == EnsembleRule::Weights::kCentroid;
  std::vector<double> distances;
  std::vector<Tensor> hidden;
  if (centroid) {
    Tensor read;
    distances = Distances(exec, inputs, &read);
    if (rule_.reader == nullptr) {
      hidden.push_back(read);
    } else {
      exec.arena().Release(before);
    }
  }
  for (size_t j = hidden.size(); j < models; ++j) {
    std::vector<ScorerInput> own(inputs.begin(), inputs.end());
    for (ScorerInput& input : own) {
      if (input.state != nullptr) input.state = StateOf(input)->models[j].get();
    }
    hidden.push_back(models_[j]->Forward(exec, own));
  }

  const Rows rows(inputs);
  const auto total = static_cast<int64_t>(rows.next.size());
  std::vector<bool> want(rows.next.size());
  for (const RowRange& range : wanted) {
    std::fill_n(want.begin() + range.first, range.count, true);
  }
  // The posterior has to see every row; other weights the wanted ones.
  const auto needed = [&](int64_t row) { return bayes || want[row]; };
  std::vector<Posterior> posteriors;  // [inputs], as far as the rows are read
  for (const ScorerInput& input : inputs) {
    const State* state = StateOf(input);
    posteriors.push_back(state ? state->posterior : StartOf(rule_, models));
    if (!bayes || state == nullptr || state->last.empty()) continue;
    std::vector<double> log_p;
    for (const std::vector<float>& logits : state->last) {
      log_p.push_back(logits[input.ids[0]] - LogSumExp(logits));
    }
    posteriors.back().Observe(log_p);
  }
  const auto weights_of = [&](int64_t row) {
    std::vector<double> weights =
        centroid ? DistanceWeights(
                       std::span(distances).subspan(row * models, models),
                       rule_.temperature)
                 : posteriors[rows.sequence[row]].Weights();
    if (rule_.top_k > 0) KeepLargest(rule_.top_k, weights);
    return weights;
  };

  const int64_t step = std::max<int64_t>(
      1, model::LogitRows(config()) / static_cast<int64_t>(models));
  for (int64_t at = 0; at < total;) {
    if (!needed(at)) {
      ++at;
      continue;
    }
    int64_t n = 1;
    while (n < step && at + n < total && needed(at + n)) ++n;
    const math::Arena::Mark mark = exec.arena().mark();
    std::vector<Tensor> logits;  // [J] of [n,V]
    for (size_t j = 0; j < models; ++j) {
      logits.push_back(models_[j]->Logits(exec, hidden[j].RowSlice(at, n)));
    }
    std::vector<double> sums(static_cast<size_t>(n) * models);
#pragma omp parallel for schedule(dynamic, 1) if (sums.size() > 1)
    for (size_t i = 0; i < sums.size(); ++i) {
      sums[i] =
          LogSumExp(Row(logits[i % models], static_cast<int64_t>(i / models)));
    }
    std::vector<std::vector<double>> weights(static_cast<size_t>(n));
    for (int64_t r = 0; r < n; ++r) {
      weights[r] = weights_of(at + r);
      if (!bayes) continue;
      const int32_t next = rows.next[at + r];
      if (next < 0) {  // the sequence's last row
        const size_t s = rows.sequence[at + r];
        if (State* state = StateOf(inputs[s])) {
          state->posterior = posteriors[s];
          state->last.resize(models);
          for (size_t j = 0; j < models; ++j) {
            const auto row = Row(logits[j], r);
            state->last[j].assign(row.begin(), row.end());
          }
        }
        continue;
      }
      std::vector<double> log_p;
      for (size_t j = 0; j < models; ++j) {
        log_p.push_back(Row(logits[j], r)[next] - sums[r * models + j]);
      }
      posteriors[rows.sequence[at + r]].Observe(log_p);
    }
    Tensor mixed = exec.arena().New({n, config().vocabulary});
#pragma omp parallel for schedule(dynamic, 1) if (n > 1)
    for (int64_t r = 0; r < n; ++r) {
      if (!want[at + r]) continue;
      std::vector<std::span<const float>> views;
      for (size_t j = 0; j < models; ++j) views.push_back(Row(logits[j], r));
      MixLogits(
          views, std::span(sums).subspan(r * models, models), weights[r],
          {mixed.f32() + r * mixed.cols(), static_cast<size_t>(mixed.cols())});
    }
    for (int64_t r = 0; r < n;) {
      int64_t end = r;
      while (end < n && want[at + end]) ++end;
      if (end > r && !sink(at + r, mixed.RowSlice(r, end - r))) {
        exec.arena().Release(before);
        return;
      }
      r = std::max(end, r + 1);
    }
    at += n;
    exec.arena().Release(mark);
  }
  exec.arena().Release(before);
}

}  // namespace motet::assemble
