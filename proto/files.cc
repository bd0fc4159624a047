// SPDX-License-Identifier: Apache-2.0
#include "proto/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "proto/error.h"

namespace motet::proto {
namespace {

absl::Status Errno(absl::string_view where, const std::string& path) {
  const int e = errno;
  absl::StatusCode code = absl::ErrnoToStatusCode(e);
  absl::string_view hint;
  if (e == ENOSPC || e == EDQUOT) {
    code = absl::StatusCode::kResourceExhausted;
    hint = "free some space and try again; nothing was lost";
  } else if (e == EACCES || e == EPERM) {
    hint = "check the owner and mode of the path";
  } else if (e == ENOENT) {
    hint = "check the path";
  }
  return Error(code, where, absl::StrCat("\"", strerror(e), "\" for ", path),
               "a file that can be used", hint);
}

std::string DirectoryOf(const std::string& path) {
  const auto slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status WriteAll(int fd, absl::string_view bytes,
                      const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      return Errno("write", path);
    }
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t max_bytes) {
  // O_NONBLOCK: a pipe in place of the file must not make us wait.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return Errno("read", path);
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    close(fd);
    return Invalid("read", absl::StrCat(path, ", not a regular file"),
                   "a file");
  }
  std::string bytes;
  // The size is a hint only: what is read is what is bounded.
  if (st.st_size <= max_bytes) bytes.reserve(st.st_size);
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      absl::Status s = Errno("read", path);
      close(fd);
      return s;
    }
    if (n == 0) break;
    bytes.append(buffer, static_cast<size_t>(n));
    if (static_cast<int64_t>(bytes.size()) > max_bytes) {
      close(fd);
      return Error(absl::StatusCode::kResourceExhausted, "read",
                   absl::StrCat(path, " of more than ", max_bytes, " bytes"),
                   absl::StrCat("at most ", max_bytes, " bytes"));
    }
  }
  close(fd);
  return bytes;
}

absl::Status WriteFileAtomic(const std::string& path, absl::string_view bytes,
                             int mode) {
  std::string temporary = absl::StrCat(path, ".tmp.XXXXXX");
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return Errno("write", path);
  absl::Status status = WriteAll(fd, bytes, path);
  if (status.ok() && (fchmod(fd, mode) != 0 || fsync(fd) != 0)) {
    status = Errno("write", path);
  }
  if (close(fd) != 0 && status.ok()) status = Errno("write", path);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = Errno("write", path);
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  return SyncDirectory(DirectoryOf(path));
}

absl::Status MakeDirectories(const std::string& path, int mode) {
  std::error_code ec;
  if (std::filesystem::is_directory(path, ec)) return absl::OkStatus();
  const std::string parent = DirectoryOf(path);
  if (parent != path && parent != ".") {
    if (absl::Status s = MakeDirectories(parent, 0755); !s.ok()) return s;
  }
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) {
    return Errno("mkdir", path);
  }
  if (!std::filesystem::is_directory(path, ec)) {
    return Invalid("mkdir", absl::StrCat(path, ", not a folder"), "a folder",
                   "move the file away");
  }
  return absl::OkStatus();
}

absl::Status SyncDirectory(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Errno("sync", path);
  absl::Status status;
  // Some file systems refuse fsync on a folder; there is nothing to do then.
  if (fsync(fd) != 0 && errno != EINVAL) status = Errno("sync", path);
  close(fd);
  return status;
}

absl::Status RenameDurably(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) return Errno("rename", to);
  return SyncDirectory(DirectoryOf(to));
}

absl::Status ExchangeDurably(const std::string& from, const std::string& to) {
  if (!Exists(to)) return RenameDurably(from, to);
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(),
                RENAME_EXCHANGE) != 0) {
    if (errno != EINVAL && errno != ENOSYS) return Errno("exchange", to);
    const std::string aside = to + ".aside";
    if (rename(to.c_str(), aside.c_str()) != 0) return Errno("rename", to);
    if (rename(from.c_str(), to.c_str()) != 0) {
      const absl::Status status = Errno("rename", from);
      rename(aside.c_str(), to.c_str());
      return status;
    }
    if (rename(aside.c_str(), from.c_str()) != 0) {
      return Errno("rename", aside);
    }
  }
  return SyncDirectory(DirectoryOf(to));
}

bool Exists(const std::string& path) {
  struct stat st;
  return stat(path.c_str(), &st) == 0;
}

absl::StatusOr<std::vector<std::string>> ListDirectory(
    const std::string& path) {
  DIR* dir = opendir(path.c_str());
  if (dir == nullptr) return Errno("list", path);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(dir)) {
    const absl::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<FileLock> FileLock::Take(const std::string& path,
                                        absl::string_view purpose) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return Errno("lock", path);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    close(fd);
    return Error(absl::StatusCode::kUnavailable, "lock",
                 absl::StrCat(path, " held by another process"),
                 absl::StrCat("to be alone for ", purpose),
                 "stop the other process first");
  }
  return FileLock(fd);
}

FileLock::FileLock(FileLock&& other) noexcept : fd_(other.fd_) {
  other.fd_ = -1;
}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

FileLock::~FileLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace motet::proto
