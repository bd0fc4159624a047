// SPDX-License-Identifier: Apache-2.0
// The mean of a matrix's rows: geometric, so that no domain counts more for
// being hard.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace motet::measure {

// exp(mean ln x_i) over all i, or those marked in `of`.   values: > 0.
inline double GeometricMean(const std::vector<double>& values,
                            const std::vector<bool>* of) {
  double sum = 0;
  int n = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (of != nullptr && !(*of)[i]) continue;
    sum += std::log(values[i]);
    ++n;
  }
  return std::exp(sum / n);
}

}  // namespace motet::measure
