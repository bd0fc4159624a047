// SPDX-License-Identifier: Apache-2.0
// Sums of rows, the same for every instruction set: a dot product runs in
// sixteen lanes and one tree.
namespace motet::math::cpu::MOTET_ISA {
namespace {

float Dot(const float* a, const float* b, int64_t n) {
  Vec sum = Zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    sum = Fma(Load(a + i), Load(b + i), sum);
  }
  if (i < n) {
    sum = Fma(LoadFirst(a + i, n - i), LoadFirst(b + i, n - i), sum);
  }
  return Sum(sum);
}

// NarrowBf16 of tensor.h, for the compiler to do many at a time.
void NarrowRow(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    const uint32_t quiet = (bits >> 16) | 0x40u;
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    out[i] = static_cast<uint16_t>(nan ? quiet : rounded);
  }
}

void WidenRow(const uint16_t* bits, DType dtype, int64_t n, float* out) {
  const auto load = [&](const uint16_t* p) {
    return dtype == DType::kF16 ? LoadHalf(p) : Load(p);
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, load(bits + i));
  if (i == n) return;
  uint16_t rest[kLanes] = {};
  for (int64_t j = i; j < n; ++j) rest[j - i] = bits[j];
  StoreFirst(out + i, load(rest), n - i);
}

void Axpy(float a, const float* x, int64_t n, float* y) {
  const Vec factor = Set(a);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Store(y + i, Fma(factor, Load(x + i), Load(y + i)));
  }
  if (i < n) {
    StoreFirst(
        y + i,
        Fma(factor, LoadFirst(x + i, n - i), LoadFirst(y + i, n - i)),
        n - i);
  }
}

}  // namespace
}  // namespace motet::math::cpu::MOTET_ISA
