// SPDX-License-Identifier: Apache-2.0
// Experts' FFNs mixed by a choice, and the choices of Branch-Train-MiX
// (METHODS 2): the layer alone, for the decoder and for training.
#pragma once

#include <cstdint>
#include <vector>

#include "compose/math/exec.h"
#include "compose/model/weights.h"

namespace motet::model {

// y = W_down swiglu(W_gate x, W_up x).   x, y: [M,C].
math::Tensor RunFfn(math::Exec& exec, const FfnWeights& ffn,
                    const math::Tensor& x);
// y[m] = sum over m's experts, ascending, of w[m,slot] FFN_e(x[m]). An expert
// that no row chose is not run; a row without a choice becomes 0.
math::Tensor RunExperts(math::Exec& exec,
                        const std::vector<FfnWeights>& experts,
                        const math::Routing& routing, const math::Tensor& x);

// How BTX's router turns logits into gates while it trains.
struct BtxRouter {
  enum class Kind : uint8_t {
    kTopK,    // softmax over the k best: gates sum to 1
    kSwitch,  // the best by its softmax over all; beyond capacity: dropped
    kSoft,    // all, by softmax
    kSample,  // the best of logits with Gumbel noise, by the softmax of these
  } kind = Kind::kTopK;
  int64_t k = 2;
  double capacity_factor = 1.5;  // of rows / experts
  double temperature = 1;        // of kSample; METHODS: annealed to 0.5
  uint64_t seed = 0;             // of kSample's noise: one seed, one draw
};
// logits: [M,E]. The choices [M,k], [M,1] or [M,E].
math::Routing RouteBtx(math::Exec& exec, const BtxRouter& router,
                       const math::Tensor& logits);

// An FFN cut in `chunks` FFNs of F / chunks each (which must divide F) whose
// outputs sum to its own. Gate and up are views; down's columns are copied
// into the arena.
std::vector<FfnWeights> SplitFfn(math::Arena& arena, const FfnWeights& ffn,
                                 int64_t chunks);

}  // namespace motet::model
