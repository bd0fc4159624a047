// SPDX-License-Identifier: Apache-2.0
#include "compose/math/tensor.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>

namespace motet::math {

int64_t ByteSize(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

const char* Name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kF64:
      return "F64";
    case DType::kI32:
      return "I32";
    case DType::kI64:
      return "I64";
    case DType::kU8:
      return "U8";
  }
  return "?";
}

Shape::Shape(std::initializer_list<int64_t> dims) {
  MOTET_CHECK(static_cast<int>(dims.size()) <= kMaxRank);
  for (int64_t d : dims) dim[rank++] = d;
}

int64_t Shape::size() const {
  int64_t n = 1;
  for (int i = 0; i < rank; ++i) n *= dim[i];
  return n;
}

std::string Shape::ToString() const {
  std::string s = "[";
  for (int i = 0; i < rank; ++i) {
    if (i > 0) s += ", ";
    s += std::to_string(dim[i]);
  }
  return s + "]";
}

void ClearFresh(std::initializer_list<Tensor> gradients) {
  for (Tensor t : gradients) {
    if (t.fresh) std::fill_n(t.f32(), t.size(), 0.0f);
  }
}

Tensor Tensor::Reshaped(const Shape& to) const {
  MOTET_CHECK(to.size() == size());
  Tensor t = *this;
  t.shape = to;
  return t;
}

Tensor Tensor::RowSlice(int64_t row, int64_t count) const {
  MOTET_CHECK(row >= 0 && count >= 0 && row + count <= rows());
  Tensor t = *this;
  t.data = static_cast<char*>(data) + row * cols() * ByteSize(dtype);
  t.shape = {count, cols()};
  return t;
}

float WidenBf16(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

uint16_t NarrowBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) {  // a NaN must stay one
    return static_cast<uint16_t>((bits >> 16) | 0x40);
  }
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float WidenF16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  uint32_t exponent = (bits >> 10) & 0x1f;
  uint32_t fraction = bits & 0x3ff;
  if (exponent == 0x1f) {
    return std::bit_cast<float>(sign | 0x7f800000 | (fraction << 13));
  }
  if (exponent == 0) {
    // Subnormal: fraction * 2^-24, exact in f32.
    const float value = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) |
                              (fraction << 13));
}

uint16_t NarrowF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t size = bits & 0x7fffffff;
  uint32_t half;
  if (size > 0x7f800000) {
    half = 0x7e00;  // a NaN must stay one
  } else if (size >= 0x477ff000) {
    half = 0x7c00;  // 65520 and more round to infinity
  } else if (size < 0x38800000) {
    // Subnormal: beside 0.5 a float's last place is 2^-24, so the sum rounds.
    const float sum = std::bit_cast<float>(size) + 0.5f;
    half = std::bit_cast<uint32_t>(sum) - std::bit_cast<uint32_t>(0.5f);
  } else {
    half = (size + 0xfff + ((size >> 13) & 1) - (112u << 23)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

void CheckFailed(const char* file, int line, const char* what) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, what);
  std::abort();
}

}  // namespace motet::math
