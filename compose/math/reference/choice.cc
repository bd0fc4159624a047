// SPDX-License-Identifier: Apache-2.0
// Choices of experts beside the plain top-k (router.cc): top-p, null experts,
// capacity; and the loss that keeps the experts' loads alike.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "compose/math/kernels.h"

namespace motet::math::reference {
namespace {

ExpertMask MaskOf(std::span<const ExpertMask> allowed, int64_t m) {
  return allowed.empty() ? ~ExpertMask{0} : allowed[m];
}

// choices: room for them.
int64_t ActiveOf(const RowLimits& limits, int64_t m, int64_t choices) {
  return limits.active.empty() ? choices
                               : std::min<int64_t>(choices, limits.active[m]);
}

// The allowed experts of one row by descending logit, ties to the lowest.
std::vector<int64_t> Ranked(const float* row, int64_t experts,
                            ExpertMask mask) {
  std::vector<int64_t> order;
  for (int64_t e = 0; e < experts; ++e) {
    if ((mask >> e & 1) != 0) order.push_back(e);
  }
  std::stable_sort(order.begin(), order.end(), [row](int64_t a, int64_t b) {
    return row[a] > row[b];
  });
  return order;
}

// Of the first `count` of a row's order: idx and exp(x - top) / total.
void Write(const float* row, const std::vector<int64_t>& order, int64_t count,
           double top, double total, int64_t choices, int32_t* idx, float* w) {
  for (int64_t k = 0; k < choices; ++k) {
    idx[k] = k < count ? static_cast<int32_t>(order[k]) : -1;
    w[k] = k < count
               ? static_cast<float>(std::exp(row[order[k]] - top) / total)
               : 0;
  }
}

// p = softmax(x[m]) over the experts of `of`, 0 elsewhere.
std::vector<double> Softmax(const float* row, int64_t experts, ExpertMask of) {
  std::vector<double> p(experts);
  double top = -INFINITY, total = 0;
  for (int64_t e = 0; e < experts; ++e) {
    if ((of >> e & 1) != 0) top = std::max(top, double{row[e]});
  }
  for (int64_t e = 0; e < experts; ++e) {
    if ((of >> e & 1) != 0) total += p[e] = std::exp(row[e] - top);
  }
  for (double& value : p) value /= total;
  return p;
}

// The experts whose loads are balanced.
ExpertMask Routed(int64_t experts, ExpertMask shared) {
  return FirstExperts(experts) & ~shared;
}

// What a row's gates are divided by: beside shared experts, which have the
// rest, what those of the others sum to; 0 where that is nothing.
double GateOfOthers(const int32_t* idx, const float* w, int64_t choices,
                    ExpertMask shared) {
  if (shared == 0) return 1;
  double sum = 0;
  for (int64_t k = 0; k < choices; ++k) {
    if (idx[k] >= 0 && (shared >> idx[k] & 1) == 0) sum += double{w[k]};
  }
  return sum < std::numeric_limits<float>::min() ? 0 : sum;
}

}  // namespace

// As many of the best experts as it takes for their weights to reach p.
//   q = softmax_{e allowed}(x[m,e]), sorted;   n = min{n: q_1 + .. + q_n >= p}
//   (idx, w) = the n largest (e, q_e)             [METHODS 10; 2403.07652]
// Experts that are not allowed are gone before the softmax. The sum runs in
// descending order over allowed experts alone.
// x: [M,E] in.   idx, w: [M,K] out, as in TopK; n <= K.
// renormalise: w divided by its sum (not in the paper).
void TopP(const Tensor& x, const RowLimits& limits, double p,
          bool renormalise, Tensor idx, Tensor w) {
  const int64_t experts = x.cols(), choices = idx.cols();
  for (int64_t m = 0; m < x.rows(); ++m) {
    const float* row = x.f32() + m * experts;
    const ExpertMask mask = MaskOf(limits.allowed, m);
    const std::vector<int64_t> order = Ranked(row, experts, mask);
    const double top = order.empty() ? 0 : double{row[order[0]]};
    double total = 0;
    for (int64_t e : order) total += std::exp(row[e] - top);
    const int64_t most = std::min<int64_t>(
        static_cast<int64_t>(order.size()), ActiveOf(limits, m, choices));
    int64_t count = 0;
    double sum = 0;
    while (count < most && (count == 0 || sum < p * total)) {
      sum += std::exp(row[order[count++]] - top);
    }
    Write(row, order, count, top, renormalise ? sum : total, choices,
          idx.i32() + m * choices, w.f32() + m * choices);
  }
}

// Top-k where some choices cost nothing: a token that needs few experts
// spends its choices on nulls.
//   T = top k of {x_e allowed} u {n_z}, ties to experts, then the lowest
//   w_e = exp(x_e) / sum_{j in T, j not null} exp(x_j)
//                                          [METHODS 10; arXiv 2406.13233]
// Shared experts are in T beside these k and do not compete with nulls.
// x: [M,E], nulls: [M,Z] in.   idx, w: [M,K] out: the experts of T by
// descending weight, then -1 and 0; none when nulls took every choice.
void NullTopK(const Tensor& x, const Tensor& nulls, const RowLimits& limits,
              Tensor idx, Tensor w) {
  const int64_t experts = x.cols(), choices = idx.cols(), zs = nulls.cols();
  const ExpertMask shared = limits.shared & FirstExperts(experts);
  const int64_t room = choices - CountExperts(shared);
  for (int64_t m = 0; m < x.rows(); ++m) {
    const float* row = x.f32() + m * experts;
    const ExpertMask mask = MaskOf(limits.allowed, m);
    const std::vector<int64_t> order = Ranked(row, experts, mask & ~shared);
    std::vector<float> empty(nulls.f32() + m * zs,
                             nulls.f32() + (m + 1) * zs);
    std::stable_sort(empty.begin(), empty.end(), std::greater<>());
    const int64_t active = ActiveOf(limits, m, room);
    size_t count = 0, passed = 0;
    ExpertMask taken = shared & mask;
    for (int64_t k = 0; k < active; ++k) {
      const bool real =
          count < order.size() &&
          (passed == empty.size() || row[order[count]] >= empty[passed]);
      if (real) {
        taken |= ExpertMask{1} << order[count++];
      } else if (passed < empty.size()) {
        ++passed;
      }
    }
    const std::vector<int64_t> chosen = Ranked(row, experts, taken);
    const double top = chosen.empty() ? 0 : double{row[chosen[0]]};
    double sum = 0;
    for (int64_t e : chosen) sum += std::exp(row[e] - top);
    Write(row, chosen, static_cast<int64_t>(chosen.size()), top, sum, choices,
          idx.i32() + m * choices, w.f32() + m * choices);
  }
}

// Switch's capacity: an expert serves the first rows that chose it; what
// comes later is dropped, and such a row passes by the layer.
//   kept[m,k] = idx[m,k] while fewer than c earlier (m,k) chose it, else -1
//                                          [METHODS 2; arXiv 2101.03961]
// idx, w: [M,K] in.   kept, kept_w: [M,K] out.
void Capacity(const Tensor& idx, const Tensor& w, int64_t capacity,
              Tensor kept, Tensor kept_w) {
  std::vector<int64_t> used(kMaxExperts);
  for (int64_t i = 0; i < idx.size(); ++i) {
    const int32_t e = idx.i32()[i];
    const bool keep = e >= 0 && used[e]++ < capacity;
    kept.i32()[i] = keep ? e : -1;
    kept_w.f32()[i] = keep ? w.f32()[i] : 0;
  }
}

//   dw[m,k] += dkept_w[m,k] where it was kept
void CapacityBackward(const Tensor& kept, const Tensor& dkept_w, Tensor dw) {
  if (dw.empty()) return;
  for (int64_t i = 0; i < kept.size(); ++i) {
    if (kept.i32()[i] >= 0) dw.f32()[i] += dkept_w.f32()[i];
  }
}

// The load-balance loss, before its weight.
//   E sum_e u_e P_e     P_e = mean_m softmax(x[m])_e
//   gates:  u_e = mean over rows of w_e               [BTX eq. 3; METHODS 2]
//   counts: u_e = choices of e / all choices, constant   [METHODS 7]
// u is over the rows of every piece since totals were zeros, P of this piece:
// a batch in pieces is balanced as a whole. x: [M,E] in, idx, w: [M,K] in.
// totals: [E+1], sums of u's numerators and their divisor, in and out.
// Beside shared experts (arXiv 2401.06066) all of it is of the others, E their
// number and w_e a row's gate divided by its gates' sum.
double LoadBalance(const Tensor& x, const Tensor& idx, const Tensor& w,
                   bool counts, ExpertMask shared, std::span<double> totals) {
  const int64_t experts = x.cols(), rows = x.rows(), choices = idx.cols();
  const ExpertMask routed = Routed(experts, shared);
  for (int64_t m = 0; m < rows; ++m) {
    const int32_t* chosen = idx.i32() + m * choices;
    const float* gates = w.f32() + m * choices;
    const double whole = GateOfOthers(chosen, gates, choices, shared);
    for (int64_t k = 0; k < choices; ++k) {
      const int32_t e = chosen[k];
      if (e < 0 || (routed >> e & 1) == 0) continue;
      if (counts) {
        totals[e] += 1;
        totals[experts] += 1;
      } else if (whole > 0) {
        totals[e] += double{gates[k]} / whole;
      }
    }
  }
  if (!counts) totals[experts] += static_cast<double>(rows);
  if (rows == 0 || routed == 0 || totals[experts] == 0) return 0;
  double sum = 0;
  for (int64_t m = 0; m < rows; ++m) {
    const std::vector<double> p =
        Softmax(x.f32() + m * experts, experts, routed);
    for (int64_t e = 0; e < experts; ++e) sum += p[e] * totals[e];
  }
  return CountExperts(routed) * sum /
         (totals[experts] * static_cast<double>(rows));
}

//   dx[m,j] += s E / M p_j (u_j - sum_e p_e u_e)
//   dw[m,k] += s E P_idx / R,   R = rows so far; by gates only
// Beside shared experts, with S the row's sum of gates and g = w / S:
//   dw[m,k] += s E / R (P_idx - sum_j g_j P_idx(j)) / S
void LoadBalanceBackward(const Tensor& x, const Tensor& idx, const Tensor& w,
                         bool counts, ExpertMask shared,
                         std::span<const double> totals, double scale,
                         Tensor dx, Tensor dw) {
  const int64_t experts = x.cols(), rows = x.rows(), choices = idx.cols();
  const ExpertMask routed = Routed(experts, shared);
  if (rows == 0 || routed == 0 || totals[experts] == 0) return;
  const double each =
      scale * CountExperts(routed) / static_cast<double>(rows);
  std::vector<double> mean(experts);
  for (int64_t m = 0; m < rows; ++m) {
    const std::vector<double> p =
        Softmax(x.f32() + m * experts, experts, routed);
    double inner = 0;
    for (int64_t e = 0; e < experts; ++e) {
      inner += p[e] * totals[e] / totals[experts];
      mean[e] += p[e];
    }
    if (dx.empty()) continue;
    for (int64_t e = 0; e < experts; ++e) {
      dx.f32()[m * experts + e] += static_cast<float>(
          each * p[e] * (totals[e] / totals[experts] - inner));
    }
  }
  if (dw.empty() || counts) return;
  for (int64_t m = 0; m < rows; ++m) {
    const int32_t* chosen = idx.i32() + m * choices;
    const float* gates = w.f32() + m * choices;
    const double whole = GateOfOthers(chosen, gates, choices, shared);
    if (whole == 0) continue;
    double inner = 0;
    for (int64_t k = 0; k < choices && shared != 0; ++k) {
      if (chosen[k] < 0 || (routed >> chosen[k] & 1) == 0) continue;
      inner += double{gates[k]} / whole * mean[chosen[k]];
    }
    for (int64_t k = 0; k < choices; ++k) {
      const int32_t e = chosen[k];
      if (e < 0 || (routed >> e & 1) == 0) continue;
      dw.f32()[m * choices + k] += static_cast<float>(
          each * (mean[e] - inner) / (whole * totals[experts]));
    }
  }
}

}  // namespace motet::math::reference
