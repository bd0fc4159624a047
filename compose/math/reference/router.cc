// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <vector>

#include "compose/math/kernels.h"

namespace motet::math::reference {
namespace {

bool Has(ExpertMask mask, int64_t e) { return (mask >> e & 1) != 0; }

ExpertMask MaskOf(std::span<const ExpertMask> allowed, int64_t m) {
  return allowed.empty() ? ~ExpertMask{0} : allowed[m];
}

}  // namespace

// The k best of the allowed experts and their softmax weights.
//   p = softmax_{e allowed}(x[m,e])     (idx, w) = the K largest (e, p_e)
// Experts that are not allowed are gone before the softmax, so the result is
// the one of a composition without them; K beyond the allowed ones gives
// idx -1 and w 0.                              [FlexOlmo 3.2; DESIGN 4.6]
// Shared experts are chosen first, whatever their logits, and the best of the
// others beside them; weights are of all chosen.          [arXiv 2401.06066]
// x: [M,E] in, E <= 128.   limits: per row, the experts allowed and at most
// how many choices; the shared ones.
// idx: [M,K] i32 out, descending weight, ties to the lowest expert.
// w: [M,K] out; renormalise: divided by the row's sum.
void TopK(const Tensor& x, const RowLimits& limits, bool renormalise,
          Tensor idx, Tensor w) {
  const int64_t experts = x.cols(), choices = idx.cols();
  const ExpertMask shared = limits.shared & FirstExperts(experts);
  const int64_t room = choices - CountExperts(shared);
  for (int64_t m = 0; m < x.rows(); ++m) {
    const float* row = x.f32() + m * experts;
    const ExpertMask mask = MaskOf(limits.allowed, m);
    const int64_t active = limits.active.empty()
                               ? room
                               : std::min<int64_t>(room, limits.active[m]);
    std::vector<int64_t> chosen;
    for (int64_t e = 0; e < experts; ++e) {
      if (Has(shared & mask, e)) chosen.push_back(e);
    }
    ExpertMask left = mask & ~shared;
    for (int64_t k = 0; k < active; ++k) {
      int64_t best = -1;
      for (int64_t e = 0; e < experts; ++e) {
        if (Has(left, e) && (best < 0 || row[e] > row[best])) best = e;
      }
      if (best < 0) break;
      left &= ~(ExpertMask{1} << best);
      chosen.push_back(best);
    }
    // As if they had all been found so.
    if (shared != 0) {
      std::stable_sort(chosen.begin(), chosen.end(),
                       [row](int64_t a, int64_t b) {
                         return row[a] > row[b] ||
                                (row[a] == row[b] && a < b);
                       });
    }
    for (int64_t k = 0; k < choices; ++k) {
      const bool is = k < static_cast<int64_t>(chosen.size());
      idx.i32()[m * choices + k] = is ? static_cast<int32_t>(chosen[k]) : -1;
      w.f32()[m * choices + k] = 0;
    }
    if (chosen.empty()) continue;
    const double top = row[chosen[0]];
    double total = 0;
    if (renormalise) {
      for (int64_t e : chosen) total += std::exp(row[e] - top);
    } else {
      for (int64_t e = 0; e < experts; ++e) {
        if (Has(mask, e)) total += std::exp(row[e] - top);
      }
    }
    for (size_t k = 0; k < chosen.size(); ++k) {
      w.f32()[m * choices + k] =
          static_cast<float>(std::exp(row[chosen[k]] - top) / total);
    }
  }
}

// The choice is a constant; the weights are a softmax, over the allowed
// experts, or over the chosen ones when renormalised:
//   dx_e += p_e (g_e - sum_k w_k dw_k),   g_e = dw_k if e is choice k, else 0
void TopKBackward(const Tensor& x, std::span<const ExpertMask> allowed,
                  bool renormalise, const Tensor& idx, const Tensor& w,
                  const Tensor& dw, Tensor dx) {
  if (dx.empty()) return;
  const int64_t experts = x.cols(), choices = idx.cols();
  for (int64_t m = 0; m < x.rows(); ++m) {
    const float* row = x.f32() + m * experts;
    const int32_t* chosen = idx.i32() + m * choices;
    const float* weight = w.f32() + m * choices;
    const float* d = dw.f32() + m * choices;
    float* out = dx.f32() + m * experts;
    double inner = 0;
    for (int64_t k = 0; k < choices; ++k) inner += double{weight[k]} * d[k];
    for (int64_t k = 0; k < choices; ++k) {
      if (chosen[k] < 0) continue;
      out[chosen[k]] += static_cast<float>(weight[k] * (d[k] - inner));
    }
    if (renormalise || chosen[0] < 0) continue;
    ExpertMask rest = MaskOf(allowed, m);
    for (int64_t k = 0; k < choices; ++k) {
      if (chosen[k] >= 0) rest &= ~(ExpertMask{1} << chosen[k]);
    }
    for (int64_t e = 0; e < experts; ++e) {
      if (!Has(rest, e)) continue;
      const double p =
          weight[0] * std::exp(double{row[e]} - row[chosen[0]]);
      out[e] -= static_cast<float>(p * inner);
    }
  }
}

// The experts' outputs, weighted, added in ascending order of expert.
//   y[m] = sum_e w[m, slots_e[i]] f_e[i]   for each i with rows_e[i] = m
// w: [M,K] in.   experts: rows, slots [m_e], f [m_e,C].   y: [M,C] out.
void Combine(const Tensor& w, std::span<const ExpertRows> experts, Tensor y) {
  const int64_t cols = y.cols(), choices = w.cols();
  std::vector<double> sum(y.size());
  for (const ExpertRows& e : experts) {
    for (size_t i = 0; i < e.rows.size(); ++i) {
      const double weight = w.f32()[e.rows[i] * choices + e.slots[i]];
      for (int64_t c = 0; c < cols; ++c) {
        sum[e.rows[i] * cols + c] += weight * e.f.f32()[i * cols + c];
      }
    }
  }
  for (int64_t i = 0; i < y.size(); ++i) {
    y.f32()[i] = static_cast<float>(sum[i]);
  }
}

//   df_e[i] += w dy[m]     dw[m,k] += f_e[i].dy[m]
void CombineBackward(const Tensor& w, std::span<const ExpertRows> experts,
                     const Tensor& dy, Tensor dw) {
  const int64_t cols = dy.cols(), choices = w.cols();
  for (const ExpertRows& e : experts) {
    Tensor df = e.df;
    for (size_t i = 0; i < e.rows.size(); ++i) {
      const int64_t at = e.rows[i] * choices + e.slots[i];
      const float* d = dy.f32() + e.rows[i] * cols;
      double inner = 0;
      for (int64_t c = 0; c < cols; ++c) {
        inner += double{e.f.f32()[i * cols + c]} * d[c];
        if (!df.empty()) df.f32()[i * cols + c] += w.f32()[at] * d[c];
      }
      if (!dw.empty()) dw.f32()[at] += static_cast<float>(inner);
    }
  }
}

}  // namespace motet::math::reference
