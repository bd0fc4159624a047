// SPDX-License-Identifier: Apache-2.0
// k-means by Lloyd's iteration, for the ablation of routers (METHODS 9).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace motet::measure {

// Means of min(k, N) clusters, [k,C], each of at least one vector. vectors:
// [N,C]. Starts by k-means++ from the seed; the same bits each time.
std::vector<float> KMeans(std::span<const float> vectors, int64_t width,
                          int64_t k, uint64_t seed);

}  // namespace motet::measure
