// SPDX-License-Identifier: Apache-2.0
// What this processor is good at, for defaults that the user did not choose.
// A function of the processor alone: the same machine kind gives the same
// bits. What it can do at all is in operators.h (HasBf16).
#pragma once

namespace motet::math {

// Products in bf16 (Product::kBf16) can run and are faster here than in f32.
// Has nothing to do with how weights are stored: bf16 weights are as good for
// f32 products.
bool FastBf16();

}  // namespace motet::math
