// SPDX-License-Identifier: Apache-2.0
// Router rows in closed form from owners' published sums (METHODS 5), and
// anchored routing's discriminants with their pooled covariance. Each
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
  double tokens = 0;       // N_i, behind both; of use to discriminants alone
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

// METHODS 11's selection by the covariance within the parts' domains.
//   mu_i = b_i / N_i    Sigma = sum_j (A_j - N_j mu_j mu_j^T) / sum_j N_j
//   w_i = (Sigma + lambda I)^-1 mu_i    c_i = -1/2 mu_i.w_i
//   lambda = ridge * mean of the diagonal of Sigma
// parts: as above, N_i > 0.   ridge > 0.   w: [parts, C].   c: [parts].
// Where rounding leaves no inverse, lambda is raised as above.
struct Discriminants {
  std::vector<double> w, c;
};
Discriminants SolveDiscriminants(std::span<const MomentsView> parts,
                                 int64_t width, double ridge);

}  // namespace motet::learn
