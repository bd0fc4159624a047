// SPDX-License-Identifier: Apache-2.0
// The leading eigenvectors of a symmetric matrix, and orthonormal rows; in
// double.
#pragma once

#include <cstdint>
#include <vector>

namespace motet::learn {

// The eigenvectors of the `count` largest eigenvalues of a, the largest's
// first, each of length 1, [count,n]; a sign is arbitrary but always the same.
// a: [n,n], symmetric, positive semidefinite, finite.   count: 1 to n.
// Subspace iteration with Rayleigh and Ritz: where eigenvalues are so close
// that 300 steps do not part them, any directions of their common space.
std::vector<double> LeadingEigenvectors(const std::vector<double>& a,
                                        int64_t n, int64_t count);

// Rows of v [rows,n], rows <= n, made orthonormal in their order, by Gram and
// Schmidt, twice, so that it holds to the last bits. A row that vanishes is
// drawn anew. One thread, sums in index order.
void Orthonormalise(std::vector<double>& v, int64_t rows, int64_t n);

}  // namespace motet::learn
