// SPDX-License-Identifier: Apache-2.0
// Writing safetensors: header first, then each tensor from where it lies, so
// that a file of any size needs no memory of its own.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
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
                                   const std::vector<TensorLayout>& tensors) {
  const std::string where = absl::StrCat("safetensors ", path);
  // Loaders of other houses ask which framework's layout this is.
  std::string text = R"({"__metadata__":{"format":"pt"})";
  uint64_t offset = 0;
  for (const TensorLayout& t : tensors) {
    std::string name;
    try {
      name = nlohmann::json(t.name).dump();
    } catch (const nlohmann::json::exception&) {
      return Invalid(where, "a tensor name that is no UTF-8", "UTF-8");
    }
    std::string shape;
    for (int i = 0; i < t.shape.rank; ++i) {
      absl::StrAppend(&shape, i > 0 ? "," : "", t.shape.dim[i]);
    }
    const uint64_t end = offset + t.bytes();
    absl::StrAppend(&text, ",", name, R"(:{"dtype":")",
                    math::Name(t.dtype), R"(","shape":[)", shape,
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

// In the order of the file; refuses names that no file can hold.
absl::Status Order(const std::string& where,
                   std::vector<TensorLayout>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    const int64_t wide_a = math::ByteSize(a.dtype);
    const int64_t wide_b = math::ByteSize(b.dtype);
    return std::tie(wide_b, a.name) < std::tie(wide_a, b.name);
  });
  std::vector<absl::string_view> names;
  for (const TensorLayout& t : tensors) names.push_back(t.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end() &&
      !std::binary_search(names.begin(), names.end(), "__metadata__")) {
    return absl::OkStatus();
  }
  return Invalid(where,
                 twice != names.end()
                     ? absl::StrCat("tensor \"", *twice, "\" twice")
                     : "a tensor called __metadata__",
                 "every name once, and not __metadata__");
}

}  // namespace

uint64_t TensorLayout::bytes() const {
  return static_cast<uint64_t>(shape.size() * math::ByteSize(dtype));
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Make(
    const std::string& path, std::vector<TensorLayout> tensors) {
  MOTET_RETURN_IF_ERROR(Order(absl::StrCat("safetensors ", path), tensors));
  MOTET_ASSIGN_OR_RETURN(const std::string header, Header(path, tensors));
  std::string temporary = absl::StrCat(path, ".tmp.XXXXXX");
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return Failed(path);
  std::unique_ptr<SafetensorsWriter> writer(
      new SafetensorsWriter(path, temporary, fd, std::move(tensors)));
  MOTET_RETURN_IF_ERROR(WriteAll(fd, header, path));
  return writer;
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>>
SafetensorsWriter::InMemory(const std::string& name,
                            std::vector<TensorLayout> tensors) {
  MOTET_RETURN_IF_ERROR(Order(absl::StrCat("safetensors ", name), tensors));
  MOTET_ASSIGN_OR_RETURN(const std::string header, Header(name, tensors));
  const int fd = memfd_create("motet", MFD_CLOEXEC);
  if (fd < 0) return Failed(name);
  std::unique_ptr<SafetensorsWriter> writer(
      new SafetensorsWriter(name, "", fd, std::move(tensors)));
  MOTET_RETURN_IF_ERROR(WriteAll(fd, header, name));
  return writer;
}

SafetensorsWriter::SafetensorsWriter(std::string path, std::string temporary,
                                     int fd, std::vector<TensorLayout> tensors)
    : path_(std::move(path)),
      temporary_(std::move(temporary)),
      fd_(fd),
      tensors_(std::move(tensors)) {
  for (const TensorLayout& t : tensors_) left_ += t.bytes();
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status SafetensorsWriter::Append(absl::string_view bytes) {
  MOTET_CHECK(bytes.size() <= left_);
  left_ -= bytes.size();
  MOTET_RETURN_IF_ERROR(WriteAll(fd_, bytes, path_));
  Hasten();
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::AppendFrom(const SafetensorsFile& file,
                                           uint64_t offset, uint64_t bytes) {
  MOTET_CHECK(offset <= file.bytes_ && bytes <= file.bytes_ - offset &&
              bytes <= left_);
  auto at = static_cast<off_t>(offset);
  while (bytes > 0) {
    const ssize_t n = copy_file_range(file.fd_, &at, fd_, nullptr, bytes, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;  // between file systems, or not at all: by hand
    left_ -= static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
  if (bytes > 0) {
    return Append({static_cast<const char*>(file.map_) + at, bytes});
  }
  Hasten();
  return absl::OkStatus();
}

// On its way to the disk while the next bytes are made; Finish waits less.
void SafetensorsWriter::Hasten() {
  if (!temporary_.empty()) sync_file_range(fd_, 0, 0, SYNC_FILE_RANGE_WRITE);
}

absl::Status SafetensorsWriter::Finish() {
  MOTET_CHECK(left_ == 0 && !temporary_.empty());
  if (fchmod(fd_, 0644) != 0 || fsync(fd_) != 0) return Failed(path_);
  const int fd = fd_;
  fd_ = -1;
  if (close(fd) != 0 || rename(temporary_.c_str(), path_.c_str()) != 0) {
    return Failed(path_);
  }
  temporary_.clear();
  const std::string folder =
      std::filesystem::path(path_).parent_path().string();
  return proto::SyncDirectory(folder.empty() ? "." : folder);
}

absl::StatusOr<std::shared_ptr<const SafetensorsFile>>
SafetensorsWriter::OpenInMemory() {
  MOTET_CHECK(left_ == 0 && temporary_.empty());
  return SafetensorsFile::Open(absl::StrCat("/proc/self/fd/", fd_));
}

absl::Status WriteSafetensors(const std::string& path,
                              std::vector<NamedTensor> tensors) {
  const std::string where = absl::StrCat("safetensors ", path);
  std::vector<TensorLayout> layout;
  for (const NamedTensor& t : tensors) {
    layout.push_back({t.name, t.tensor.dtype, t.tensor.shape});
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
  MOTET_ASSIGN_OR_RETURN(const auto writer,
                         SafetensorsWriter::Make(path, std::move(layout)));
  std::map<absl::string_view, const math::Tensor*> by_name;
  for (const NamedTensor& t : tensors) by_name[t.name] = &t.tensor;
  for (const TensorLayout& t : writer->tensors()) {
    MOTET_RETURN_IF_ERROR(writer->Append(
        {static_cast<const char*>(by_name[t.name]->data), t.bytes()}));
  }
  return writer->Finish();
}

}  // namespace motet::package
