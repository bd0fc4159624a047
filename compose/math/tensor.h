// SPDX-License-Identifier: Apache-2.0
// A tensor is a view: where numbers lie, their dtype, device and shape. It
// owns nothing; arenas, buffers and mapped files do. Row-major, contiguous.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace motet::math {

enum class DType : uint8_t { kF32, kBF16, kF16, kF64, kI32, kI64, kU8 };
enum class Device : uint8_t { kCpu, kCuda };

inline constexpr int kMaxRank = 4;

int64_t ByteSize(DType dtype);
const char* Name(DType dtype);  // safetensors spelling: "F32", "BF16", ...

struct Shape {
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  int rank = 0;
  std::array<int64_t, kMaxRank> dim{};
  int64_t size() const;  // product; 1 for rank 0
  bool operator==(const Shape&) const = default;
  std::string ToString() const;  // "[2, 3]"
};

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Device device = Device::kCpu;
  Shape shape;
  // A gradient that nothing was added to yet: its numbers are anything, and
  // who adds to all of it writes instead (Recorder::FirstGradient).
  bool fresh = false;

  bool empty() const { return data == nullptr; }
  int64_t size() const { return shape.size(); }
  int64_t bytes() const { return size() * ByteSize(dtype); }
  // All dimensions but the last, multiplied; and the last.
  int64_t rows() const { return cols() == 0 ? 0 : size() / cols(); }
  int64_t cols() const {
    return shape.rank == 0 ? 1 : shape.dim[shape.rank - 1];
  }
  float* f32() { return static_cast<float*>(data); }
  const float* f32() const { return static_cast<const float*>(data); }
  const uint16_t* bf16() const { return static_cast<const uint16_t*>(data); }
  int32_t* i32() { return static_cast<int32_t*>(data); }
  const int32_t* i32() const { return static_cast<const int32_t*>(data); }
  Tensor Reshaped(const Shape& to) const;            // same size
  Tensor RowSlice(int64_t row, int64_t rows) const;  // of the last-dim rows
};

// Zeros where a fresh f32 gradient lies.
void ClearFresh(std::initializer_list<Tensor> gradients);

float WidenBf16(uint16_t bits);
uint16_t NarrowBf16(float value);  // round to nearest even
float WidenF16(uint16_t bits);
uint16_t NarrowF16(float value);  // round to nearest even

// Ends the program with file, line and text. For what only a programmer can
// cause; unreachable from outside.
[[noreturn]] void CheckFailed(const char* file, int line, const char* what);
#define MOTET_CHECK(condition)                                      \
  do {                                                              \
    if (!(condition)) ::motet::math::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)

}  // namespace motet::math
