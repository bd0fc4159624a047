// SPDX-License-Identifier: Apache-2.0
// FAISS's HNSW graph (M 32, efConstruction 64) over vectors that stay where
// they lie: the file holds the links alone.
//
//   8 bytes  "MOTETHN1"
//   4 x i64  rows, width, entry point, highest level
//   rows x i32       levels, from 1
//   links x i32      neighbours, -1 = none; each row has room for 64 on its
//                    lowest level and for 32 on every other
#pragma once

#include <memory>
#include <string>

#include "compose/retrieve/approximate.h"

namespace motet::retrieve {

inline constexpr int kHnswLinks = 32, kHnswConstruction = 64;

std::unique_ptr<Approximate> NewHnsw(int64_t width);
absl::StatusOr<std::unique_ptr<Approximate>> ReadHnsw(
    const std::string& path, const VectorView& vectors);

}  // namespace motet::retrieve
