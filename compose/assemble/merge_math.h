// SPDX-License-Identifier: Apache-2.0
// The arithmetic of merges [METHODS 6], a piece of one tensor at a time: pure
// functions of n numbers of the base and of J models (f32, widened exactly
// from what is stored). Sums over models are taken in double in the models'
// order, element by element, so no result depends on how a tensor was cut.
// Formulas are written over the models themselves rather than over task
// vectors tau_j = theta_j - base wherever that gives the same: a merge of one
// model then is that model, bit for bit.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace motet::assemble {

using Models = std::span<const float* const>;  // J of [n]
using Weights = std::span<const double>;       // [J]

// A sum of models, and of the base where its weight is not 0.
//   out = b base + sum_j w_j theta_j
// linear, weighted: b = 0, sum w = 1. task arithmetic: w_j = lambda v_j and
// b = 1 - sum w, which is base + lambda sum_j v_j tau_j.      [METHODS 6]
// base, models: [n] f32 in.  out: [n] f32 out, may alias none of them.
// Checks: goldens merges/linear, merges/task_arithmetic. Differs: nothing.
void WeightedSum(const float* base, double base_weight, Models models,
                 Weights weights, int64_t n, float* out);

// What SLERP needs of two whole tensors, summed over pieces in their order.
struct SlerpSums {
  double dot = 0, aa = 0, bb = 0;
  SlerpSums& operator+=(const SlerpSums& other);
};
SlerpSums SlerpDot(const float* a, const float* b, int64_t n);
// Weights of a and b, for WeightedSum.
//   theta = arccos(a.b / |a||b|);  sin((1-t) theta) / sin theta,
//   sin(t theta) / sin theta;  (1 - t, t) where |cos theta| > 0.9995 or a
//   norm is 0                                       [METHODS 6, mergekit]
// Checks: golden merges/slerp. Differs: nothing.
std::pair<double, double> SlerpWeights(const SlerpSums& sums, double t);

// Which task vector's elements TIES keeps: those whose |tau| has a larger
// key (merge_select.h) than `key`, and the first `ties` of this piece that
// have that very key.
struct Cut {
  uint32_t key = 0;
  uint64_t ties = 0;
};
// theta := base where the element is not kept, so that its tau is 0.
void KeepLargest(const float* base, const Cut& cut, int64_t n, float* model);

// TIES: elect a sign, average those that agree.
//   s = sign(sum_j w_j tau_j), + when 0;  A = {j: tau_j != 0, sign = s}
//   out = (1-lambda) base + lambda sum_A w_j theta_j / sum_A w_j;
//   base where A is empty                                 [TIES; METHODS 6]
// models: trimmed by KeepLargest.  w > 0.  out: [n] f32 out.
// Checks: golden merges/ties. Differs: ties in magnitude go to the first.
void TiesMean(const float* base, Models models, Weights weights, double lambda,
              int64_t n, float* out);

// DARE: theta := base where a coin of probability 1 - density falls so; the
// coin of element i is a function of (key, i) alone, whatever other models,
// pieces or threads there are. WeightedSum with w_j = lambda v_j / density
// rescales.                                            [DARE; METHODS 6]
// first: the index of the piece's first element in the tensor.
void DropAtRandom(const float* base, uint64_t key, double density,
                  int64_t first, int64_t n, float* model);
// A key for each of (seed, model, tensor).
uint64_t DareKey(uint64_t seed, uint64_t model, const std::string& tensor);

// PCB's statistics of one model, over all parameters of all tensors.
struct PcbRange {
  float least = 0, most = 0;  // of |tau|
  float clip = 0;             // |tau| above it counts as it (epsilon)
  double low = 0, high = 0;   // of the scores as kept: dropped ones count 0
  uint32_t key = 0;           // scores with a key below it are dropped
};
// The scores of model j.
//   beta_j = exp(J m(tau_j^2)) tanh(tau_j sum_i tau_i),  m: min-max over all
//   parameters                                    [PCB-Merging; METHODS 6]
// beta: [n] f32 out. The authors square after min-max; the fixture, which we
// follow, before.
void PcbScores(const float* base, Models models, size_t j,
               const PcbRange& range, int64_t n, float* beta);
// Mean of task vectors by their scores.
//   h_j = (beta_j - low_j) / (high_j - low_j) over the kept, else 0 (as
//   scaled);  out = base + lambda sum_j h_j clip(tau_j) / sum_j h_j
// base where the h_j sum to 0.  ranges: [J].
// Checks: golden merges/pcb.
void PcbMean(const float* base, Models models,
             std::span<const PcbRange> ranges, double lambda, int64_t n,
             float* out);

// Mean weighted by Fisher information.
//   out = sum_j w_j F_j theta_j / sum_j w_j F_j; without F where that sum is
//   0                                                       [METHODS 6]
// fishers: J of [n] f32 in, >= 0.
// Checks: golden merges/fisher. Differs: nothing.
void FisherMean(Models models, Models fishers, Weights weights, int64_t n,
                float* out);

}  // namespace motet::assemble
