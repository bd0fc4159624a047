// SPDX-License-Identifier: Apache-2.0
// The one matrix product behind Linear and its gradients. Operands lie where
// they lie, in whatever dtype and direction; panels of sixteen rows are
// packed as they are needed and multiplied by the instruction set's tile.
// An output is one sum over k in ascending order, by fused multiply-add from
// zero (bf16: two k a step), so its bits depend on its two rows alone: not on
// the other rows, the blocking, the thread or, in f32, the instruction set.
#pragma once

#include <cstdint>
#include <span>

#include "compose/math/tensor.h"

namespace motet::math::cpu {

// Element (row, k) lies at data[row * stride + k], or, when turned, at
// data[k * stride + row]. f32, bf16 or f16.
struct Operand {
  const void* data;
  DType dtype;
  int64_t stride;
  bool turned;
  bool operator==(const Operand&) const = default;
};

enum class Arithmetic : uint8_t {
  kF32,
  kBF16,  // both operands rounded to bf16, sums in f32; needs HasBf16()
};

// c[m*c_stride + n] = sum_k a(m,k) b(n,k), or, when adding, += that sum.
struct Job {
  Operand a;
  int64_t rows;
  Operand b;
  int64_t cols;
  int64_t terms;
  bool add;
  float* c;
  int64_t c_stride;
};

// All of them at once, each as if alone; outputs do not overlap. An a that
// equals the job's before is packed once.
void Multiply(std::span<const Job> jobs, Arithmetic arithmetic);

}  // namespace motet::math::cpu
