// SPDX-License-Identifier: Apache-2.0
// Work split over threads by outputs, never over a sum, so that the thread
// count cannot move a bit; and scratch memory that a thread keeps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "compose/math/tensor.h"

namespace motet::math::cpu {

// body(begin, end) for [0, n) in pieces of `piece`. One piece, or a caller
// that is itself a worker, runs without waking threads.
template <typename Body>
void ForPieces(int64_t n, int64_t piece, const Body& body) {
  const int64_t pieces = (n + piece - 1) / piece;
#pragma omp parallel for schedule(dynamic, 1) if (pieces > 1)
  for (int64_t i = 0; i < pieces; ++i) {
    body(i * piece, std::min(n, (i + 1) * piece));
  }
}

// Rows in a piece so that a piece is about 16 Ki numbers of work.
inline int64_t RowsPerPiece(int64_t cols) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, cols));
}

// Grows, never shrinks before the thread ends. The contents do not outlive
// the kernel that asked.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* Get(int64_t floats) {
    if (floats > size_) {
      std::free(data_);
      size_ = (floats + 1023) & -1024;
      data_ = static_cast<float*>(
          std::aligned_alloc(64, size_ * sizeof(float)));
      MOTET_CHECK(data_ != nullptr);
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace motet::math::cpu
