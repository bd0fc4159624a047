// SPDX-License-Identifier: Apache-2.0
// Plain binary files of structures, written through and read to the byte; and
// the boundary at which FAISS's exceptions become statuses.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace motet::retrieve {

// Runs work; an exception is an Internal error of `where`.
absl::Status Guarded(const char* where, const std::function<void()>& work);

class StructureWriter {
 public:
  explicit StructureWriter(const std::string& path);
  void Put(const void* bytes, size_t size);
  // OK: all of it is on the disk.
  absl::Status Finish();

 private:
  std::string path_;
  std::unique_ptr<FILE, int (*)(FILE*)> file_;
  int error_ = 0;
};

class StructureReader {
 public:
  static absl::StatusOr<StructureReader> Open(const std::string& path);
  // False when so much is not left.
  bool Take(void* bytes, size_t size);
  int64_t left() const { return left_; }

 private:
  StructureReader(FILE* file, int64_t size)
      : file_(file, fclose), left_(size) {}
  std::unique_ptr<FILE, int (*)(FILE*)> file_;
  int64_t left_;
};

// Makes what was written to the file durable.
absl::Status SyncFile(const std::string& path);

}  // namespace motet::retrieve
