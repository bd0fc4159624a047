// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <vector>

#include "compose/math/kernels.h"

namespace motet::math::reference {
namespace {

double Dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{a[i]} * b[i];
  return sum;
}

// (H - m)^T P (H - m), or |G (H - m)|^2
double Distance(const float* hidden, const float* mean,
                const AnchoredLayer& layer) {
  const Tensor& p = layer.precision;
  const Tensor& g = layer.factor;
  const int64_t cols = g.empty() ? p.cols() : g.cols();
  double sum = 0;
  for (int64_t r = 0; !g.empty() && r < g.rows(); ++r) {
    double row = 0;
    for (int64_t j = 0; j < cols; ++j) {
      row += double{g.f32()[r * cols + j]} * (double{hidden[j]} - mean[j]);
    }
    sum += row * row;
  }
  if (!g.empty()) return sum;
  for (int64_t i = 0; i < cols; ++i) {
    double row = 0;
    for (int64_t j = 0; j < cols; ++j) {
      row += double{p.f32()[i * cols + j]} * (double{hidden[j]} - mean[j]);
    }
    sum += (double{hidden[i]} - mean[i]) * row;
  }
  return sum;
}

}  // namespace

// Anchored routing: which one expert, if any, joins the base.   [METHODS 11]
//   s_e = w_e.h + c_e    S = a S + (1-a) s    H = a H + (1-a) h
//   i = argmax_{e allowed or 0} S_e, ties to the lowest
//   gate: (H - m_i)^T P (H - m_i) > tau_i  ->  i = 0; of rank R: G^T G for P
//   prefix mean: a = n / (n + 1) after n rows of the sequence
//   i = 0: base alone.   else (p_0, p_i) = softmax(r_0.h, r_i.h), or, by
//   switch, i alone
// h: [M,C] in.   idx: [M,2] i32 out.   w: [M,2] out.
// A segment's state enters and leaves; S and H of a sequence's first row are
// s and h themselves. Only the base's and the allowed experts' numbers are
// touched, so the others' presence cannot matter.
void AnchoredRoute(const Tensor& h, const AnchoredLayer& layer,
                   std::span<const RouteSegment> segments, Tensor idx,
                   Tensor w) {
  const int64_t experts = layer.select.rows(), cols = h.cols();
  for (const RouteSegment& segment : segments) {
    std::vector<float> own_scores(experts), own_hidden(cols);
    bool own_started = false;
    const AnchoredState& state = segment.state;
    float* scores = state.scores ? state.scores : own_scores.data();
    float* hidden = state.hidden ? state.hidden : own_hidden.data();
    bool* started = state.started ? state.started : &own_started;
    const ExpertMask allowed = segment.allowed | 1;
    for (int64_t t = segment.row; t < segment.row + segment.rows; ++t) {
      const float* row = h.f32() + t * cols;
      const float a = layer.Smoothing(segment.past + t - segment.row);
      for (int64_t c = 0; c < cols; ++c) {
        hidden[c] = *started ? a * hidden[c] + (1 - a) * row[c] : row[c];
      }
      int64_t best = 0;
      for (int64_t e = 0; e < experts; ++e) {
        if ((allowed >> e & 1) == 0) continue;
        const float s = static_cast<float>(
            Dot(layer.select.f32() + e * cols, row, cols) +
            layer.offset.f32()[e]);
        scores[e] = *started ? a * scores[e] + (1 - a) * s : s;
        if (scores[e] > scores[best]) best = e;
      }
      *started = true;
      if (best != 0 && layer.gate &&
          Distance(hidden, layer.pair_mean.f32() + best * cols, layer) >
              layer.threshold.f32()[best]) {
        best = 0;
      }
      int32_t* out = idx.i32() + 2 * t;
      float* weight = w.f32() + 2 * t;
      if (best == 0 || !layer.pair) {
        out[0] = static_cast<int32_t>(best), out[1] = -1;
        weight[0] = 1, weight[1] = 0;
        continue;
      }
      const double margin = Dot(layer.rows.f32() + best * cols, row, cols) -
                            Dot(layer.rows.f32(), row, cols);
      out[0] = 0, out[1] = static_cast<int32_t>(best);
      weight[0] = static_cast<float>(1 / (1 + std::exp(margin)));
      weight[1] = static_cast<float>(1 / (1 + std::exp(-margin)));
    }
  }
}

}  // namespace motet::math::reference
