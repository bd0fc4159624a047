// SPDX-License-Identifier: Apache-2.0
// The k-th largest of any number of f32 values without keeping them: they
// pass by three times, in any order and from any number of threads, and are
// counted by 11, 11 and 10 bits of their keys. What is found does not depend
// on how they were divided.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

namespace motet::assemble {

// Ordered as the numbers are: a < b <=> KeyOf(a) < KeyOf(b). -0 below +0.
inline uint32_t KeyOf(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
inline float FromKey(uint32_t key) {
  const uint32_t bits = (key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

class RadixSelect {
 public:
  static constexpr int kPasses = 3;
  static constexpr int kBins = 1 << 11;
  struct Counts {
    std::array<uint64_t, kBins> bins{};
  };

  // k >= 1: the largest is the first.
  explicit RadixSelect(uint64_t k = 1) : left_(k) {}
  // In every pass, every value once.
  void Count(uint32_t key, Counts& counts) const {
    if (((key ^ prefix_) & mask_) == 0) {
      ++counts.bins[(key >> shift_) & (kBins - 1)];
    }
  }
  void Add(const Counts& counts) {
    for (int i = 0; i < kBins; ++i) counts_.bins[i] += counts.bins[i];
  }
  // After every pass.
  void Next() {
    if (shift_ < 0) return;
    int bin = kBins - 1;
    while (bin > 0 && counts_.bins[bin] < left_) {
      left_ -= counts_.bins[bin--];
    }
    equal_ = counts_.bins[bin];
    prefix_ |= static_cast<uint32_t>(bin) << shift_;
    mask_ |= (uint32_t{kBins} - 1) << shift_;
    counts_ = {};
    shift_ = shift_ == 21 ? 10 : shift_ == 10 ? 0 : -1;
  }
  // After the last one: the key found, how many have it, and how many of
  // these belong to the k largest.
  uint32_t key() const { return prefix_; }
  uint64_t equal() const { return equal_; }
  uint64_t wanted() const { return left_; }

 private:
  uint64_t left_, equal_ = 0;
  uint32_t prefix_ = 0, mask_ = 0;
  int shift_ = 21;
  Counts counts_;
};

}  // namespace motet::assemble
