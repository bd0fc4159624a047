// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/hash.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <numbers>

namespace motet::learn {

uint64_t Fnv1a(absl::string_view bytes) {
  uint64_t h = 0xcbf29ce484222325u;
  for (unsigned char c : bytes) h = (h ^ c) * 0x100000001b3u;
  return h;
}

uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

int64_t Shuffled(int64_t index, int64_t size, uint64_t seed) {
  int half = 1;  // bits of one half: the smallest square of 2^half >= size
  while ((int64_t{1} << (2 * half)) < size) ++half;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  uint64_t x = static_cast<uint64_t>(index);
  // A Feistel network permutes [0, 4^half); whoever lands outside walks on
  // along the cycle until it is inside again.
  do {
    uint64_t left = x >> half, right = x & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t next = left ^ (Mix(seed ^ Mix(right * 8 + round)) & mask);
      left = right;
      right = next;
    }
    x = (left << half) | right;
  } while (x >= static_cast<uint64_t>(size));
  return static_cast<int64_t>(x);
}

double Normal(uint64_t seed, uint64_t index) {
  // Box and Muller; the first uniform number is never 0.
  const uint64_t a = Mix(Mix(seed) + 2 * index);
  const uint64_t b = Mix(Mix(seed) + 2 * index + 1);
  const double u = (static_cast<double>(a >> 11) + 1) * 0x1p-53;
  const double v = static_cast<double>(b >> 11) * 0x1p-53;
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
}

void Fingerprint::Add(uint64_t value) {
  // Multiplication alone carries nothing downwards; the shift does.
  state_ = (state_ ^ value) * 0x9e3779b97f4a7c15u;
  state_ ^= state_ >> 29;
}

void Fingerprint::Add(const void* data, int64_t bytes) {
  const char* p = static_cast<const char*>(data);
  Add(static_cast<uint64_t>(bytes));
  for (; bytes >= 8; bytes -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    Add(word);
  }
  uint64_t rest = 0;
  if (bytes > 0) std::memcpy(&rest, p, static_cast<size_t>(bytes));
  Add(rest);
}

std::string Fingerprint::Hex() const {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx",
                static_cast<unsigned long long>(state_));
  return text;
}

}  // namespace motet::learn
