// SPDX-License-Identifier: Apache-2.0
// Random numbers that nobody can predict or repeat, by OpenSSL: for what
// hides an owner's numbers. Everything that must be reproducible takes a seed
// instead (compose/learn/hash.h).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace motet::proto {

// n independent draws of N(0, 1). Internal where the system gives no
// randomness: then nothing is drawn.
absl::StatusOr<std::vector<double>> SecureNormals(int64_t n);

}  // namespace motet::proto
