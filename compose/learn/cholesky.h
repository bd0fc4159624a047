// SPDX-License-Identifier: Apache-2.0
// The inverse of a symmetric positive definite matrix, in double.
#pragma once

#include <cstdint>
#include <vector>

namespace motet::learn {

// a: [n,n], symmetric; replaced by its inverse, exactly symmetric. false when
// a is not positive definite (or not finite); a is then undefined.
bool InvertPositive(std::vector<double>& a, int64_t n);

}  // namespace motet::learn
