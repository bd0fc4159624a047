// SPDX-License-Identifier: Apache-2.0
// Symmetric positive definite matrices, in double: the inverse, and draws
// whose covariance it is.
#pragma once

#include <cstdint>
#include <vector>

namespace motet::learn {

// a: [n,n], symmetric; replaced by its inverse, exactly symmetric. false when
// a is not positive definite (or not finite); a is then undefined.
bool InvertPositive(std::vector<double>& a, int64_t n);

// Makes of draws z of N(0, I) one of N(0, a^-1), in place: z = L^-T z, with
// a = L L^T.   a: [n,n].   z: [n].   false as above; z is then as it was.
bool ShapeByInverse(std::vector<double> a, int64_t n, double* z);

}  // namespace motet::learn
