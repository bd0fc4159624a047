// SPDX-License-Identifier: Apache-2.0
// The exact search: inner products of queries with every vector, wherever the
// vectors lie, a mapped file or memory. What a query finds, to the bit, does
// not depend on the other queries, on threads, or on rows that are left out.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "compose/retrieve/ranking.h"

namespace motet::retrieve {

// vectors: [rows,C]. queries: [Q,C]. The best k rows for each query among
// [first, rows) for which `allowed` holds (null: all).
std::vector<Ranking> SearchFlat(const float* vectors, int64_t first,
                                int64_t rows, int64_t width,
                                std::span<const float> queries, int64_t k,
                                const std::function<bool(int64_t)>& allowed);
// The same among these rows, ascending.
std::vector<Ranking> SearchRows(const float* vectors,
                                std::span<const int64_t> rows, int64_t width,
                                std::span<const float> queries, int64_t k);

}  // namespace motet::retrieve
