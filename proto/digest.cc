// SPDX-License-Identifier: Apache-2.0
#include "proto/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/openssl.h"

namespace motet::proto {
namespace {

// SHA-256 in memory can only fail when memory or the library itself is gone;
// to go on with a wrong digest would be worse than to stop.
void Must(bool ok) {
  if (!ok) abort();
}

absl::Status FileError(const std::string& path, int error) {
  return Error(absl::ErrnoToStatusCode(error), "digest",
               absl::StrCat("\"", strerror(error), "\" for ", path),
               "a file that can be read", "check the path, owner and mode");
}

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

struct Sha256Stream::State {
  DigestContextPtr context;
};

Sha256Stream::Sha256Stream() : state_(std::make_unique<State>()) {
  state_->context.reset(EVP_MD_CTX_new());
  Must(state_->context != nullptr &&
       EVP_DigestInit_ex(state_->context.get(), EVP_sha256(), nullptr) == 1);
}

Sha256Stream::~Sha256Stream() = default;
Sha256Stream::Sha256Stream(Sha256Stream&&) noexcept = default;

void Sha256Stream::Update(absl::string_view bytes) {
  Must(EVP_DigestUpdate(state_->context.get(), bytes.data(), bytes.size()) ==
       1);
}

Digest Sha256Stream::Finish() {
  Digest digest;
  unsigned int size = 0;
  Must(EVP_DigestFinal_ex(state_->context.get(), digest.data(), &size) == 1 &&
       size == digest.size());
  return digest;
}

Digest Sha256(absl::string_view bytes) {
  Sha256Stream stream;
  stream.Update(bytes);
  return stream.Finish();
}

absl::StatusOr<Digest> Sha256File(const std::string& path) {
  // O_NONBLOCK: a pipe in place of the file must not make us wait.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return FileError(path, errno);
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    close(fd);
    return Invalid("digest", absl::StrCat(path, ", not a regular file"),
                   "a file");
  }
  Sha256Stream stream;
  std::vector<char> piece(size_t{1} << 20);
  for (;;) {
    const ssize_t n = read(fd, piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      close(fd);
      return FileError(path, error);
    }
    if (n == 0) break;
    stream.Update(absl::string_view(piece.data(), static_cast<size_t>(n)));
  }
  close(fd);
  return stream.Finish();
}

std::string Hex(absl::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(2 * bytes.size());
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    hex.push_back(kDigits[byte >> 4]);
    hex.push_back(kDigits[byte & 15]);
  }
  return hex;
}

std::string Hex(const Digest& digest) { return Hex(ToBytes(digest)); }

absl::StatusOr<Digest> DigestFromHex(absl::string_view hex) {
  Digest digest;
  bool ok = hex.size() == 2 * digest.size();
  for (size_t i = 0; ok && i < digest.size(); ++i) {
    const int high = HexValue(hex[2 * i]);
    const int low = HexValue(hex[2 * i + 1]);
    ok = high >= 0 && low >= 0;
    digest[i] = static_cast<uint8_t>(high * 16 + low);
  }
  if (ok) return digest;
  return Invalid("digest",
                 absl::StrCat("\"", hex.substr(0, 80), "\" of ", hex.size(),
                              " characters"),
                 "64 lower-case hexadecimal digits");
}

absl::StatusOr<Digest> DigestFromBytes(absl::string_view bytes) {
  Digest digest;
  if (bytes.size() != digest.size()) {
    return Invalid("digest", absl::StrCat(bytes.size(), " bytes"),
                   "32 bytes of SHA-256");
  }
  std::copy(bytes.begin(), bytes.end(),
            reinterpret_cast<char*>(digest.data()));
  return digest;
}

std::string ToBytes(const Digest& digest) {
  return std::string(reinterpret_cast<const char*>(digest.data()),
                     digest.size());
}

}  // namespace motet::proto
