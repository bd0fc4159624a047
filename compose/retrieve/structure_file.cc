// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/structure_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>

#include "proto/error.h"

namespace motet::retrieve {
namespace {

absl::Status Failed(const std::string& path, int error) {
  return proto::Error(error == ENOSPC ? absl::StatusCode::kResourceExhausted
                                      : absl::StatusCode::kInternal,
                      path, std::strerror(error), "a file that can be written",
                      "free space or check the disk, then run the command "
                      "again; nothing was lost");
}

}  // namespace

absl::Status Guarded(const char* where, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& e) {
    return proto::Error(absl::StatusCode::kInternal, where, e.what(),
                        "an index that FAISS can work on");
  }
  return absl::OkStatus();
}

StructureWriter::StructureWriter(const std::string& path)
    : path_(path), file_(fopen(path.c_str(), "wb"), fclose) {
  if (file_ == nullptr) error_ = errno;
}

void StructureWriter::Put(const void* bytes, size_t size) {
  if (error_ != 0 || size == 0) return;
  if (fwrite(bytes, 1, size, file_.get()) != size) error_ = errno;
}

absl::Status StructureWriter::Finish() {
  if (error_ == 0 &&
      (fflush(file_.get()) != 0 || fsync(fileno(file_.get())) != 0)) {
    error_ = errno;
  }
  return error_ == 0 ? absl::OkStatus() : Failed(path_, error_);
}

absl::StatusOr<StructureReader> StructureReader::Open(const std::string& path) {
  FILE* file = fopen(path.c_str(), "rb");
  struct stat info = {};
  if (file == nullptr || fstat(fileno(file), &info) != 0) {
    const int error = errno;
    if (file != nullptr) fclose(file);
    return proto::Error(absl::StatusCode::kNotFound, path, std::strerror(error),
                        "a readable file", "build the index anew");
  }
  return StructureReader(file, info.st_size);
}

bool StructureReader::Take(void* bytes, size_t size) {
  if (static_cast<int64_t>(size) > left_) return false;
  if (size > 0 && fread(bytes, 1, size, file_.get()) != size) return false;
  left_ -= static_cast<int64_t>(size);
  return true;
}

absl::Status SyncFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Failed(path, errno);
  const int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return error == 0 ? absl::OkStatus() : Failed(path, error);
}

}  // namespace motet::retrieve
