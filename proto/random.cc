// SPDX-License-Identifier: Apache-2.0
#include "proto/random.h"

#include <openssl/rand.h>

#include <cmath>
#include <numbers>

#include "proto/openssl.h"

namespace motet::proto {

// Box and Muller: sqrt(-2 log u) (cos, sin)(2 pi v), u in (0, 1], v in [0, 1),
// of 53 bits each.
absl::StatusOr<std::vector<double>> SecureNormals(int64_t n) {
  std::vector<uint64_t> bits(static_cast<size_t>(n + 1) / 2 * 2);
  auto* bytes = reinterpret_cast<unsigned char*>(bits.data());
  size_t left = bits.size() * sizeof(uint64_t);
  while (left > 0) {
    const size_t piece = left < (size_t{1} << 20) ? left : size_t{1} << 20;
    if (RAND_bytes(bytes, static_cast<int>(piece)) != 1) {
      return OpensslError("noise", "drawing random numbers");
    }
    bytes += piece;
    left -= piece;
  }
  std::vector<double> normals;
  normals.reserve(bits.size());
  for (size_t i = 0; i + 1 < bits.size(); i += 2) {
    const double u = (static_cast<double>(bits[i] >> 11) + 1) * 0x1p-53;
    const double v = static_cast<double>(bits[i + 1] >> 11) * 0x1p-53;
    const double radius = std::sqrt(-2 * std::log(u));
    normals.push_back(radius * std::cos(2 * std::numbers::pi * v));
    normals.push_back(radius * std::sin(2 * std::numbers::pi * v));
  }
  normals.resize(static_cast<size_t>(n));
  return normals;
}

}  // namespace motet::proto
