// SPDX-License-Identifier: Apache-2.0
// A seeded linear map from one width to another that turns and does not
// stretch: for vectors of an encoder that has another width than the model.
// Everyone who uses one seed gets the same map, and so comparable vectors.
#pragma once

#include <cstdint>
#include <vector>

namespace motet::learn {

// P [rows,columns], row-major, in double: of the shorter side's vectors (the
// columns where rows >= columns, else the rows) each has norm 1 and stands at
// a right angle to the others. Gram and Schmidt over Normal(seed, i), each
// vector twice, in one order on one thread: the same bits everywhere.
std::vector<double> Orthonormal(int64_t rows, int64_t columns, uint64_t seed);

// y = P x.   matrix: [rows,columns], x: [columns] -> [rows].
std::vector<double> Times(const std::vector<double>& matrix,
                          const std::vector<double>& x);

}  // namespace motet::learn
