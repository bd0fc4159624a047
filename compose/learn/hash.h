// SPDX-License-Identifier: Apache-2.0
// Small hashes and a counter-based random source: which side of a split a
// document falls on, in which order windows are read, how a model starts,
// whether a checkpoint belongs to a run. Fixed for ever: files and runs
// depend on these bits. Not for security; packages are digested by SHA-256.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace motet::learn {

// 64-bit FNV-1a of the bytes.
uint64_t Fnv1a(absl::string_view bytes);

// SplitMix64's output function: equal inputs, equal outputs; good mixing.
uint64_t Mix(uint64_t x);

// Position `index` of a pseudo-random order of [0, size): a permutation,
// computed without storing it. size >= 1, 0 <= index < size.
int64_t Shuffled(int64_t index, int64_t size, uint64_t seed);

// Number `index` of a stream of independent standard normal numbers.
double Normal(uint64_t seed, uint64_t index);

// A digest of large data, eight bytes at a time.
class Fingerprint {
 public:
  void Add(const void* data, int64_t bytes);
  void Add(uint64_t value);
  std::string Hex() const;  // 16 digits

 private:
  uint64_t state_ = 0xcbf29ce484222325u;
};

}  // namespace motet::learn
