// SPDX-License-Identifier: Apache-2.0
// Writing safetensors: header first, then each tensor from where it lies, so
// that a file of any size needs no memory of its own.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/package/safetensors.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::package {
namespace {

using proto::Invalid;

constexpr size_t kDataAlignment = 64;

absl::Status Failed(const std::string& path) {
  const int e = errno;
  const bool full = e == ENOSPC || e == EDQUOT;
  return proto::Error(
      full ? absl::StatusCode::kResourceExhausted : absl::ErrnoToStatusCode(e),
      absl::StrCat("safetensors ", path), absl::StrCat("\"", strerror(e), "\""),
      "the file written",
      full ? "free some space and try again; nothing was lost" : "");
}

absl::Status WriteAll(int fd, absl::string_view bytes,
                      const std::string& path) {
  // One call writes at most 2 GiB on Linux.
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failed(path);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

// Length prefix and JSON, padded with spaces to where the data may begin.
absl::StatusOr<std::string> Header(const std::string& path,
                                   const std::vector<NamedTensor>& tensors) {
  const std::string where = absl::StrCat("safetensors ", path);
  // Loaders of other houses ask which framework's layout this is.
  std::string text = R"({"__metadata__":{"format":"pt"})";
  uint64_t offset = 0;
  for (const NamedTensor& t : tensors) {
    std::string name;
    try {
      name = nlohmann::json(t.name).dump();
    } catch (const nlohmann::json::exception&) {
      return Invalid(where, "a tensor name that is no UTF-8", "UTF-8");
    }
    std::string shape;
    for (int i = 0; i < t.tensor.shape.rank; ++i) {
      absl::StrAppend(&shape, i > 0 ? "," : "", t.tensor.shape.dim[i]);
    }
    const uint64_t end = offset + static_cast<uint64_t>(t.tensor.bytes());
    absl::StrAppend(&text, ",", name, R"(:{"dtype":")",
                    math::Name(t.tensor.dtype), R"(","shape":[)", shape,
                    R"(],"data_offsets":[)", offset, ",", end, "]}");
    offset = end;
  }
  text += '}';
  const size_t with_prefix = text.size() + 8;
  text.append((kDataAlignment - with_prefix % kDataAlignment) % kDataAlignment,
              ' ');
  if (text.size() > static_cast<size_t>(proto::kMaxSafetensorsHeaderBytes)) {
    return Invalid(where, absl::StrCat("a header of ", text.size(), " bytes"),
                   absl::StrCat("at most ", proto::kMaxSafetensorsHeaderBytes));
  }
  std::string prefix(8, '\0');
  for (int i = 0; i < 8; ++i) {
    prefix[i] = static_cast<char>(uint64_t{text.size()} >> (8 * i));
  }
  return prefix + text;
}

absl::Status WriteTo(int fd, const std::string& header,
                     const std::vector<NamedTensor>& tensors,
                     const std::string& path) {
  MOTET_RETURN_IF_ERROR(WriteAll(fd, header, path));
  for (const NamedTensor& t : tensors) {
    MOTET_RETURN_IF_ERROR(WriteAll(
        fd,
        absl::string_view(static_cast<const char*>(t.tensor.data),
                          static_cast<size_t>(t.tensor.bytes())),
        path));
  }
  if (fchmod(fd, 0644) != 0 || fsync(fd) != 0) return Failed(path);
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteSafetensors(const std::string& path,
                              std::vector<NamedTensor> tensors) {
  const std::string where = absl::StrCat("safetensors ", path);
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    const int64_t wide_a = math::ByteSize(a.tensor.dtype);
    const int64_t wide_b = math::ByteSize(b.tensor.dtype);
    return std::tie(wide_b, a.name) < std::tie(wide_a, b.name);
  });
  std::vector<absl::string_view> names;
  for (const NamedTensor& t : tensors) {
    names.push_back(t.name);
    if (t.tensor.data == nullptr && t.tensor.size() != 0) {
      return Invalid(where,
                     absl::StrCat("tensor \"", t.name, "\" without data"),
                     "data");
    }
    if (t.tensor.device != math::Device::kCpu) {
      return Invalid(where,
                     absl::StrCat("tensor \"", t.name, "\" on a device"),
                     "tensors in main memory");
    }
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end() ||
      std::binary_search(names.begin(), names.end(), "__metadata__")) {
    return Invalid(where,
                   twice != names.end()
                       ? absl::StrCat("tensor \"", *twice, "\" twice")
                       : "a tensor called __metadata__",
                   "every name once, and not __metadata__");
  }
  MOTET_ASSIGN_OR_RETURN(const std::string header, Header(path, tensors));

  std::string temporary = absl::StrCat(path, ".tmp.XXXXXX");
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return Failed(path);
  absl::Status status = WriteTo(fd, header, tensors, path);
  if (close(fd) != 0 && status.ok()) status = Failed(path);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = Failed(path);
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return proto::SyncDirectory(folder.empty() ? "." : folder);
}

}  // namespace motet::package
