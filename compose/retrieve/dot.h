// SPDX-License-Identifier: Apache-2.0
// The inner product of two vectors for walks through a graph: sixteen sums
// side by side, added in one order, so that every instruction set gives the
// same bits. What is returned to users is scored by flat.h.
#pragma once

#include <cstdint>

namespace motet::retrieve {

using Dot = float (*)(const float* a, const float* b, int64_t n);
// The fastest of this processor.
Dot BestDot();

}  // namespace motet::retrieve
