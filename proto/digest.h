// SPDX-License-Identifier: Apache-2.0
// SHA-256 of bytes and files, by OpenSSL.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace motet::proto {

using Digest = std::array<uint8_t, 32>;

Digest Sha256(absl::string_view bytes);
// Reads the file in pieces; NotFound / permission errors name the path.
absl::StatusOr<Digest> Sha256File(const std::string& path);

std::string Hex(const Digest& digest);                  // 64 lower-case digits
std::string Hex(absl::string_view bytes);
absl::StatusOr<Digest> DigestFromHex(absl::string_view hex);
absl::StatusOr<Digest> DigestFromBytes(absl::string_view bytes);  // 32 bytes
std::string ToBytes(const Digest& digest);

// Incremental form.
class Sha256Stream {
 public:
  Sha256Stream();
  ~Sha256Stream();
  Sha256Stream(Sha256Stream&&) noexcept;
  void Update(absl::string_view bytes);
  Digest Finish();  // once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace motet::proto
