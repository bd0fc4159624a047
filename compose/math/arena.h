// SPDX-License-Identifier: Apache-2.0
// Memory for one step: bump allocation in large blocks, 64-byte aligned,
// given back all at once (or back to a mark). Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "compose/math/tensor.h"

namespace motet::math {

class Arena {
 public:
  explicit Arena(int64_t block_bytes = int64_t{8} << 20);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Uninitialised. bytes may be 0.
  void* Allocate(int64_t bytes);
  Tensor New(const Shape& shape, DType dtype = DType::kF32);
  Tensor Zeros(const Shape& shape, DType dtype = DType::kF32);
  // Everything allocated since the mark is free again; blocks are kept.
  struct Mark {
    size_t block;
    int64_t offset;
  };
  Mark mark() const;
  void Release(Mark mark);
  void Reset() { Release({0, 0}); }
  int64_t peak_bytes() const { return peak_; }

 private:
  struct Block;
  std::vector<Block> blocks_;
  size_t block_ = 0;
  int64_t offset_ = 0;
  int64_t block_bytes_;
  int64_t used_ = 0;
  int64_t peak_ = 0;
};

}  // namespace motet::math
