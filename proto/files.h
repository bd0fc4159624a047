// SPDX-License-Identifier: Apache-2.0
// Files as every box reads and writes them: bounded reads, atomic durable
// writes (temporary file, fsync, rename, fsync of the folder).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace motet::proto {

// The whole file; ResourceExhausted when larger than max_bytes.
absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t max_bytes);
// After OK the file holds exactly `bytes` even if the machine dies; on any
// error (disk full included) what was at `path` before is untouched and no
// temporary file stays behind. mode: e.g. 0644, 0600 for keys.
absl::Status WriteFileAtomic(const std::string& path, absl::string_view bytes,
                             int mode = 0644);
absl::Status MakeDirectories(const std::string& path, int mode = 0755);
// Makes renames within the folder durable.
absl::Status SyncDirectory(const std::string& path);
// Renames a finished file or folder into place, durably.
absl::Status RenameDurably(const std::string& from, const std::string& to);
// Lets two files or folders change places, durably and at once: whoever opens
// `to` finds the one or the other, whole. Where nothing is at `to`, renames.
// On a file system that cannot exchange, `to` is missing for a moment.
absl::Status ExchangeDurably(const std::string& from, const std::string& to);
bool Exists(const std::string& path);
// Names (not paths) in the folder, sorted, without "." and "..".
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);

// An advisory lock on a file, held until the object dies. Unavailable when
// another process holds it (the message names `purpose`).
class FileLock {
 public:
  static absl::StatusOr<FileLock> Take(const std::string& path,
                                       absl::string_view purpose);
  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;
  ~FileLock();

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace motet::proto
