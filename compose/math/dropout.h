// SPDX-License-Identifier: Apache-2.0
// Which numbers dropout keeps: a function of a seed and the number's place, so
// that a mask needs no memory, a resumed run draws it again, and threads and
// instruction sets cannot move it. Fixed for ever: runs depend on these bits.
// The functions are each file's own, as files of one instruction set need.
#pragma once

#include <cstdint>

namespace motet::math {

struct DropoutMask {
  uint32_t low, high;  // of the seed
  uint32_t gone;       // below it: the share that goes, of 2^32
  float kept;          // what the others are multiplied with
};

// rate: the share that goes, 0 <= rate < 1.
static inline DropoutMask MaskOf(double rate, uint64_t seed) {
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
          static_cast<uint32_t>(rate * 0x1p32),
          static_cast<float>(1 / (1 - rate))};
}

// A good permutation of 32 bits, in few operations.
static inline uint32_t Scatter(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

// What number i is multiplied with; 1 in the mean.
static inline float DropoutFactor(const DropoutMask& mask, uint32_t i) {
  const uint32_t drawn = Scatter(Scatter(i ^ mask.low) ^ mask.high);
  return drawn < mask.gone ? 0.0f : mask.kept;
}

}  // namespace motet::math
