// SPDX-License-Identifier: Apache-2.0
// FAISS's IVF-PQ, in FAISS's own file format: about 4 sqrt(rows) lists, codes
// of one byte for each 8 numbers. It is trained once, on a sample of the rows
// that are there, and keeps its centroids as rows are added.
#pragma once

#include <memory>
#include <string>

#include "compose/retrieve/approximate.h"

namespace motet::retrieve {

std::unique_ptr<Approximate> NewIvfPq(int64_t width);
absl::StatusOr<std::unique_ptr<Approximate>> ReadIvfPq(
    const std::string& path, const VectorView& vectors, bool writable);

}  // namespace motet::retrieve
