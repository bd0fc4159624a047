// SPDX-License-Identifier: Apache-2.0
// Operators that compute nothing. A model that runs on them allocates what it
// would allocate, so memory is counted by the one definition of the model.
// Choices of experts alone are written, because later shapes follow them.
#include "compose/math/kernels.h"

namespace motet::math {
namespace {

template <typename Result, typename... Arguments>
Result Nothing(Arguments...) {
  return Result();
}

// Row m chooses experts m, m + 1, ... around.
void Spread(int64_t experts, Tensor idx) {
  const int64_t choices = idx.cols();
  for (int64_t i = 0; i < idx.size(); ++i) {
    const int64_t slot = i % choices;
    idx.i32()[i] = slot < experts
                       ? static_cast<int32_t>((i / choices + slot) % experts)
                       : -1;
  }
}

void TopK(const Tensor& x, const RowLimits&, bool, Tensor idx, Tensor) {
  Spread(x.cols(), idx);
}

void TopP(const Tensor& x, const RowLimits&, double, bool, Tensor idx,
          Tensor) {
  Spread(x.cols(), idx);
}

void NullTopK(const Tensor& x, const Tensor&, const RowLimits&, Tensor idx,
              Tensor) {
  Spread(x.cols(), idx);
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
