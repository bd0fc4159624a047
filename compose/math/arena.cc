// SPDX-License-Identifier: Apache-2.0
#include "compose/math/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace motet::math {
namespace {

constexpr int64_t kAlign = 64;

int64_t RoundUp(int64_t bytes) { return (bytes + kAlign - 1) & -kAlign; }

}  // namespace

struct Arena::Block {
  char* data;
  int64_t bytes;
  int64_t before;  // bytes of all blocks in front of this one
};

Arena::Arena(int64_t block_bytes) : block_bytes_(RoundUp(block_bytes)) {}

Arena::~Arena() {
  for (const Block& block : blocks_) munmap(block.data, block.bytes);
}

void* Arena::Allocate(int64_t bytes) {
  MOTET_CHECK(bytes >= 0);
  // At least one line, so that every result has an address of its own:
  // recorders know tensors by it.
  bytes = std::max(RoundUp(bytes), kAlign);
  while (block_ < blocks_.size() &&
         offset_ + bytes > blocks_[block_].bytes) {
    ++block_;
    offset_ = 0;
  }
  if (block_ == blocks_.size()) {
    // Mapped, not from the heap: pages are taken when they are first written,
    // and all of them go back to the system with the arena.
    const int64_t size = std::max(bytes, block_bytes_);
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MOTET_CHECK(data != MAP_FAILED);
    const int64_t before =
        blocks_.empty() ? 0 : blocks_.back().before + blocks_.back().bytes;
    blocks_.push_back({static_cast<char*>(data), size, before});
    offset_ = 0;
  }
  void* result = blocks_[block_].data + offset_;
  offset_ += bytes;
  used_ = blocks_[block_].before + offset_;
  peak_ = std::max(peak_, used_);
  return result;
}

Tensor Arena::New(const Shape& shape, DType dtype) {
  Tensor t;
  t.dtype = dtype;
  t.shape = shape;
  t.data = Allocate(t.bytes());
  return t;
}

Tensor Arena::Zeros(const Shape& shape, DType dtype) {
  Tensor t = New(shape, dtype);
  std::memset(t.data, 0, t.bytes());
  return t;
}

Arena::Mark Arena::mark() const { return {block_, offset_}; }

void Arena::Release(Mark mark) {
  MOTET_CHECK(mark.block < block_ ||
              (mark.block == block_ && mark.offset <= offset_));
  block_ = mark.block;
  offset_ = mark.offset;
  used_ = block_ < blocks_.size() ? blocks_[block_].before + offset_ : 0;
}

}  // namespace motet::math
