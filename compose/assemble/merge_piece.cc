// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/merge_piece.h"

#include <cmath>
#include <cstring>

namespace motet::assemble {

using math::DType;
using math::Tensor;

Tensor Slice(const Tensor& t, int64_t from, int64_t n) {
  Tensor part = t;
  part.data =
      static_cast<char*>(t.data) + from * math::ByteSize(t.dtype);
  part.shape = {n};
  return part;
}

void Widen(const Tensor& t, int64_t from, int64_t n, float* out) {
  if (t.dtype == DType::kF32) {
    memcpy(out, t.f32() + from, n * sizeof(float));
    return;
  }
  const uint16_t* bits = t.bf16() + from;
  if (t.dtype == DType::kBF16) {
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t wide = uint32_t{bits[i]} << 16;
      memcpy(out + i, &wide, sizeof wide);
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) out[i] = math::WidenF16(bits[i]);
}

void Narrow(const float* in, int64_t n, DType dtype, char* out) {
  if (dtype == DType::kF32) {
    memcpy(out, in, n * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    if (dtype == DType::kBF16) {  // math::NarrowBf16, inline
      uint32_t wide;
      memcpy(&wide, in + i, sizeof wide);
      bits = static_cast<uint16_t>((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
    } else {
      bits = math::NarrowF16(in[i]);
    }
    memcpy(out + i * sizeof bits, &bits, sizeof bits);
  }
}

bool AllFinite(const float* numbers, int64_t n, DType dtype) {
  // What still rounds to the largest number.
  const float most = dtype == DType::kF16    ? 65520.0f
                     : dtype == DType::kBF16 ? 3.3961775e38f
                                             : INFINITY;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) finite &= std::abs(numbers[i]) < most;
  return finite;
}

}  // namespace motet::assemble
