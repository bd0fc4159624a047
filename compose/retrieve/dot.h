// SPDX-License-Identifier: Apache-2.0
// The inner product of two vectors for walks through a graph and for pilots: 32
// sums side by side, added in one order, so that every instruction set gives the
// same bits. What is returned to users is scored by flat.h.
#pragma once

#include <cstdint>
#include <vector>

namespace motet::retrieve {

using Dot = float (*)(const float* a, const float* b, int64_t n);
// Those that this processor has, the fastest last.
std::vector<Dot> Dots();
Dot BestDot();

}  // namespace motet::retrieve
