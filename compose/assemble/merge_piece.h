// SPDX-License-Identifier: Apache-2.0
// Pieces of tensors between what is stored (F32, BF16, F16) and the f32 that
// merges are computed from.
#pragma once

#include <cstdint>
#include <vector>

#include "compose/assemble/merge.h"
#include "compose/assemble/merge_math.h"
#include "compose/math/tensor.h"

namespace motet::assemble {

// Elements of a piece, at most: 128 KiB of f32.
inline constexpr int64_t kMostPiece = int64_t{1} << 15;

// n elements as a flat tensor.
math::Tensor Slice(const math::Tensor& t, int64_t from, int64_t n);
// Exact.
void Widen(const math::Tensor& t, int64_t from, int64_t n, float* out);
// Round to nearest even from f32; numbers are finite.
void Narrow(const float* in, int64_t n, math::DType dtype, char* out);
// Once rounded to dtype.
bool AllFinite(const float* numbers, int64_t n, math::DType dtype);

// One thread's copies of one piece, which it may change.
class Piece {
 public:
  Piece(size_t parties, int64_t size)
      : numbers_(parties * size), rows_(parties) {
    for (size_t p = 0; p < parties; ++p) {
      rows_[p] = numbers_.data() + p * size;
    }
  }
  void Load(const MergeTensor& t, bool with_base, int64_t from, int64_t n) {
    if (with_base) Widen(t.base, from, n, rows_[0]);
    models_ = t.models.size();
    for (size_t j = 0; j < models_; ++j) {
      Widen(t.models[j], from, n, rows_[1 + j]);
    }
    for (size_t j = 0; j < t.fishers.size(); ++j) {
      Widen(t.fishers[j], from, n, rows_[1 + models_ + j]);
    }
  }
  const float* base() const { return rows_[0]; }
  float* model(size_t j) const { return rows_[1 + j]; }
  Models models() const { return {rows_.data() + 1, models_}; }
  Models fishers() const {
    return {rows_.data() + 1 + models_, rows_.size() - 1 - models_};
  }

 private:
  std::vector<float> numbers_;
  std::vector<float*> rows_;
  size_t models_ = 0;
};

}  // namespace motet::assemble
