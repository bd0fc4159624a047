// SPDX-License-Identifier: Apache-2.0
// Package folders on the client's side: which files there are, and their bytes
// by offset. Private to the client.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "registry.pb.h"
#include "registry/client.h"

namespace motet::registry {

// An open file, by offset. Closed with the object.
class FileAt {
 public:
  static absl::StatusOr<FileAt> OpenToRead(const std::string& path);
  // Made when it is not there; what is in it stays.
  static absl::StatusOr<FileAt> OpenToWrite(const std::string& path);
  FileAt(FileAt&& other) noexcept;
  FileAt& operator=(FileAt&& other) noexcept;
  ~FileAt();

  absl::StatusOr<uint64_t> Size() const;
  // Exactly that many bytes; OutOfRange when the file ends before.
  absl::StatusOr<std::string> Read(uint64_t offset, uint64_t bytes) const;
  absl::Status Write(uint64_t offset, const std::string& bytes);
  absl::Status Truncate(uint64_t bytes);
  absl::Status Sync();

 private:
  FileAt(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  absl::Status Failure(const char* what) const;
  int fd_ = -1;
  std::string path_;
};

// The record of a package folder, checked by CheckRecord: every regular file
// in it and its subfolders, sorted. Anything else in there is an error.
absl::StatusOr<v1::PackageRecord> DescribeFolder(
    const std::string& folder, const std::string& id,
    const std::map<std::string, std::vector<uint64_t>>& cuts);

}  // namespace motet::registry
