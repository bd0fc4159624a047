// SPDX-License-Identifier: Apache-2.0
// Operators that compute nothing. A model that runs on them allocates what it
// would allocate, so memory is counted by the one definition of the model.
// Choices of experts alone are written, because later shapes follow them.
#include <vector>

#include "compose/math/kernels.h"

namespace motet::math {
namespace {

template <typename Result, typename... Arguments>
Result Nothing(Arguments...) {
  return Result();
}

// Row m chooses the shared experts, then m, m + 1, ... of the others, around.
void Spread(int64_t experts, Tensor idx, ExpertMask shared = 0) {
  std::vector<int32_t> order;
  for (const bool first : {true, false}) {
    for (int64_t e = 0; e < experts; ++e) {
      if (((shared >> e & 1) != 0) == first) {
        order.push_back(static_cast<int32_t>(e));
      }
    }
  }
  const int64_t choices = idx.cols();
  const int64_t always = CountExperts(shared & FirstExperts(experts));
  for (int64_t i = 0; i < idx.size(); ++i) {
    const int64_t slot = i % choices;
    const int64_t at =
        slot < always || slot >= experts
            ? slot
            : always + (i / choices + slot - always) % (experts - always);
    idx.i32()[i] = slot < experts ? order[static_cast<size_t>(at)] : -1;
  }
}

void TopK(const Tensor& x, const RowLimits& limits, bool, Tensor idx, Tensor) {
  Spread(x.cols(), idx, limits.shared);
}

void TopP(const Tensor& x, const RowLimits&, double, bool, Tensor idx,
          Tensor) {
  Spread(x.cols(), idx);
}

void NullTopK(const Tensor& x, const Tensor&, const RowLimits& limits,
              Tensor idx, Tensor) {
  Spread(x.cols(), idx, limits.shared);
}

void Capacity(const Tensor& idx, const Tensor&, int64_t, Tensor kept,
              Tensor) {
  for (int64_t i = 0; i < idx.size(); ++i) kept.i32()[i] = idx.i32()[i];
}

void AnchoredRoute(const Tensor&, const AnchoredLayer& layer,
                   std::span<const RouteSegment>, Tensor idx, Tensor) {
  Spread(layer.rows.rows(), idx);
}

Kernels Make() {
  Kernels table = {
      "counting",
#define MOTET_FILL(member, function) &Nothing,
      MOTET_KERNELS(MOTET_FILL)
#undef MOTET_FILL
  };
  table.top_k = TopK;
  table.top_p = TopP;
  table.null_top_k = NullTopK;
  table.capacity = Capacity;
  table.anchored_route = AnchoredRoute;
  return table;
}

}  // namespace

const Kernels& Counting() {
  static const Kernels table = Make();
  return table;
}

}  // namespace motet::math
