// SPDX-License-Identifier: Apache-2.0
// Formulas: reference/anchored.cc. Scores and the gate's product with P or G
// go through the exact product, so a token's choice does not depend on the
// chunk that it came in; smoothing runs along the sequence.
#include <cmath>
#include <vector>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/kernels.h"

namespace motet::math::cpu {
namespace {

Tensor View(float* data, int64_t rows, int64_t cols) {
  Tensor t;
  t.data = data;
  t.shape = {rows, cols};
  return t;
}

// The smoothed choice of every row of one segment, before the gate; where an
// expert was chosen, H - m_e goes to deviations[row].
void Smooth(const Tensor& h, const AnchoredLayer& layer,
            const RouteSegment& segment, const float* scores,
            int32_t* choices, float* deviations) {
  const int64_t experts = layer.select.rows(), cols = h.cols();
  std::vector<float> own_scores(experts), own_hidden(cols);
  bool own_started = false;
  const AnchoredState& state = segment.state;
  float* smooth = state.scores ? state.scores : own_scores.data();
  float* hidden = state.hidden ? state.hidden : own_hidden.data();
  bool* started = state.started ? state.started : &own_started;
  const ExpertMask allowed = segment.allowed | 1;
  for (int64_t t = segment.row; t < segment.row + segment.rows; ++t) {
    const float* row = h.f32() + t * cols;
    const float a = layer.Smoothing(segment.past + t - segment.row);
    const float b = 1 - a;
    for (int64_t c = 0; c < cols; ++c) {
      hidden[c] = *started ? a * hidden[c] + b * row[c] : row[c];
    }
    int64_t best = 0;
    for (int64_t e = 0; e < experts; ++e) {
      if ((allowed >> e & 1) == 0) continue;
      const float s = scores[t * experts + e] + layer.offset.f32()[e];
      smooth[e] = *started ? a * smooth[e] + b * s : s;
      if (smooth[e] > smooth[best]) best = e;
    }
    *started = true;
    choices[t] = static_cast<int32_t>(best);
    if (best == 0 || !layer.gate) continue;
    const float* mean = layer.pair_mean.f32() + best * cols;
    for (int64_t c = 0; c < cols; ++c) {
      deviations[t * cols + c] = hidden[c] - mean[c];
    }
  }
}

}  // namespace

void AnchoredRoute(const Tensor& h, const AnchoredLayer& layer,
                   std::span<const RouteSegment> segments, Tensor idx,
                   Tensor w) {
  const int64_t rows = h.rows(), cols = h.cols();
  const int64_t experts = layer.select.rows();
  const Isa& isa = Active();
  thread_local Scratch scratch;
  float* scores = scratch.Get(rows * (experts + 3 * cols));
  float* deviations = scores + rows * experts;
  float* packed = deviations + rows * cols;
  float* weighed = packed + rows * cols;
  std::vector<int32_t> choices(rows, 0);

  Linear(h, layer.select, View(scores, rows, experts), Product::kExact);
  ForPieces(segments.size(), 1, [&](int64_t b, int64_t e) {
    for (int64_t s = b; s < e; ++s) {
      Smooth(h, layer, segments[s], scores, choices.data(), deviations);
    }
  });

  // Distances of the rows that chose an expert, by one product.
  std::vector<int64_t> gated;
  if (layer.gate) {
    for (int64_t t = 0; t < rows; ++t) {
      if (choices[t] != 0) gated.push_back(t);
    }
  }
  const int64_t count = static_cast<int64_t>(gated.size());
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(deviations + gated[i] * cols, cols, packed + i * cols);
  }
  const bool full = layer.factor.empty();
  const Tensor& metric = full ? layer.precision : layer.factor;
  const int64_t rank = full ? cols : metric.rows();
  Linear(View(packed, count, cols), metric, View(weighed, count, rank),
         Product::kExact);
  for (int64_t i = 0; i < count; ++i) {
    const float* y = weighed + i * rank;
    const float distance = isa.dot(full ? packed + i * cols : y, y, rank);
    int32_t& choice = choices[gated[i]];
    if (distance > layer.threshold.f32()[choice]) choice = 0;
  }

  for (int64_t t = 0; t < rows; ++t) {
    int32_t* out = idx.i32() + 2 * t;
    float* weight = w.f32() + 2 * t;
    if (choices[t] == 0 || !layer.pair) {
      out[0] = choices[t], out[1] = -1;
      weight[0] = 1, weight[1] = 0;
      continue;
    }
    const float* row = h.f32() + t * cols;
    const double own =
        isa.dot(layer.rows.f32() + choices[t] * cols, row, cols);
    const double margin = own - isa.dot(layer.rows.f32(), row, cols);
    out[0] = 0, out[1] = choices[t];
    weight[0] = static_cast<float>(1 / (1 + std::exp(margin)));
    weight[1] = static_cast<float>(1 / (1 + std::exp(-margin)));
  }
}

}  // namespace motet::math::cpu
