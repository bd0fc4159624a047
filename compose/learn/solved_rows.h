// SPDX-License-Identifier: Apache-2.0
// Router rows in closed form from owners' published sums (METHODS 5). Each
// owner's sums stay apart and are added afresh for every expert set, in the
// set's order: rows of a set are those of a federation that has no one else,
// bit for bit. Nothing is ever subtracted.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace motet::learn {

// One owner's sums of one layer, as statistics.safetensors has them.
struct MomentsView {
  const double* products;  // [C(C+1)/2], lower triangle of A_i, row by row
  const double* sum;       // b_i [C]
};

// One row for each part, of length 1.
//   w_i = (sum_j A_j + lambda I)^-1 b_i;   r_i = w_i / |w_i|
//                                           [METHODS 5; arXiv 2603.29765]
// parts: finite numbers, in the order of the experts.   lambda > 0.
// r: [parts, C].   All sums in double, in index order.
// Differs from the paper: where rounding leaves no inverse, lambda is raised
// tenfold until there is one, and a row whose sum is zero stays zero.
std::vector<double> SolveRows(std::span<const MomentsView> parts,
                              int64_t width, double lambda);

}  // namespace motet::learn
