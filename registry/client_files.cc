// SPDX-License-Identifier: Apache-2.0
#include "registry/client_files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/limits.h"
#include "registry/record.h"

namespace motet::registry {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<std::vector<std::string>> ListFiles(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error), end;
  while (!error && it != end) {
    // The type without following links: a link could point anywhere.
    const fs::file_type type = it->symlink_status(error).type();
    if (error) break;
    const std::string name = it->path().lexically_relative(folder).string();
    if (type == fs::file_type::regular) {
      names.push_back(name);
    } else if (type != fs::file_type::directory) {
      return proto::Invalid(
          "publish",
          absl::StrCat(it->path().string(), ", neither file nor folder"),
          "a package of plain files", "remove it");
    }
    if (names.size() > static_cast<size_t>(proto::kMaxPackageFiles)) {
      return proto::Invalid("publish",
                            absl::StrCat("more than ", proto::kMaxPackageFiles,
                                         " files in ", folder),
                            absl::StrCat("at most ", proto::kMaxPackageFiles));
    }
    it.increment(error);
  }
  if (error) {
    return proto::Invalid(
        "publish", absl::StrCat("\"", error.message(), "\" for ", folder),
        "a package folder", "check the path");
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

absl::Status FileAt::Failure(const char* what) const {
  const int code = errno;
  const bool full = code == ENOSPC || code == EDQUOT || code == EFBIG;
  return proto::Error(full ? absl::StatusCode::kResourceExhausted
                           : absl::ErrnoToStatusCode(code),
                      what,
                      absl::StrCat("\"", strerror(code), "\" for ", path_),
                      "a file that can be used",
                      full ? "free some space and try again; what was fetched "
                             "is kept"
                           : "check the path and its owner");
}

absl::StatusOr<FileAt> FileAt::OpenToRead(const std::string& path) {
  FileAt file(open(path.c_str(), O_RDONLY | O_CLOEXEC), path);
  if (file.fd_ < 0) return file.Failure("read");
  return file;
}

absl::StatusOr<FileAt> FileAt::OpenToWrite(const std::string& path) {
  FileAt file(
      open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644),
      path);
  if (file.fd_ < 0) return file.Failure("write");
  return file;
}

FileAt::FileAt(FileAt&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

FileAt& FileAt::operator=(FileAt&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  return *this;
}

FileAt::~FileAt() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<uint64_t> FileAt::Size() const {
  struct stat st;
  if (fstat(fd_, &st) != 0) return Failure("read");
  return static_cast<uint64_t>(st.st_size);
}

absl::StatusOr<std::string> FileAt::Read(uint64_t offset,
                                         uint64_t bytes) const {
  std::string buffer(bytes, '\0');
  size_t done = 0;
  while (done < bytes) {
    const ssize_t n = pread(fd_, buffer.data() + done, bytes - done,
                            static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failure("read");
    if (n == 0) {
      return proto::Error(absl::StatusCode::kOutOfRange, "read",
                          absl::StrCat(path_, " ending at ", offset + done),
                          absl::StrCat(bytes, " bytes from ", offset),
                          "leave the file alone while it is read");
    }
    done += static_cast<size_t>(n);
  }
  return buffer;
}

absl::Status FileAt::Write(uint64_t offset, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = pwrite(fd_, bytes.data() + done, bytes.size() - done,
                             static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failure("write");
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status FileAt::Truncate(uint64_t bytes) {
  if (ftruncate(fd_, static_cast<off_t>(bytes)) != 0) return Failure("write");
  return absl::OkStatus();
}

absl::Status FileAt::Sync() {
  if (fsync(fd_) != 0) return Failure("write");
  return absl::OkStatus();
}

absl::StatusOr<v1::FileEntry> DescribeFile(const std::string& path,
                                           const std::string& name,
                                           const std::vector<uint64_t>& cuts) {
  MOTET_ASSIGN_OR_RETURN(const FileAt file, FileAt::OpenToRead(path));
  MOTET_ASSIGN_OR_RETURN(const uint64_t size, file.Size());
  if (!std::is_sorted(cuts.begin(), cuts.end()) ||
      (!cuts.empty() && cuts.back() > size)) {
    return proto::Invalid(absl::StrCat("chunks of ", path),
                          "cuts out of order or beyond the end",
                          absl::StrCat("ascending offsets up to ", size));
  }
  v1::FileEntry entry;
  entry.set_path(name);
  entry.set_size_bytes(size);
  proto::Sha256Stream whole;
  auto cut = cuts.begin();
  uint64_t offset = 0;
  while (offset < size) {
    while (cut != cuts.end() && *cut <= offset) ++cut;
    uint64_t end =
        std::min(size, offset + static_cast<uint64_t>(proto::kMaxChunkBytes));
    if (cut != cuts.end()) end = std::min(end, *cut);
    MOTET_ASSIGN_OR_RETURN(const std::string bytes,
                           file.Read(offset, end - offset));
    whole.Update(bytes);
    v1::ChunkRef* chunk = entry.add_chunks();
    chunk->set_sha256(proto::ToBytes(proto::Sha256(bytes)));
    chunk->set_size_bytes(static_cast<uint32_t>(bytes.size()));
    offset = end;
  }
  entry.set_sha256(proto::ToBytes(whole.Finish()));
  return entry;
}

absl::StatusOr<v1::PackageRecord> DescribeFolder(
    const std::string& folder, const std::string& id,
    const std::map<std::string, std::vector<uint64_t>>& cuts) {
  MOTET_RETURN_IF_ERROR(ParsePackageId(id).status());
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         ListFiles(folder));
  v1::PackageRecord record;
  record.set_id(id);
  for (const std::string& name : names) {
    // Before reading: a name that nobody may publish need not be hashed.
    MOTET_RETURN_IF_ERROR(CheckPath(name));
    const auto found = cuts.find(name);
    MOTET_ASSIGN_OR_RETURN(
        *record.add_files(),
        DescribeFile(
            absl::StrCat(folder, "/", name), name,
            found == cuts.end() ? std::vector<uint64_t>() : found->second));
    if (name == kManifestFile) {
      record.set_manifest_sha256(record.files().rbegin()->sha256());
    }
  }
  MOTET_RETURN_IF_ERROR(CheckRecord(record));
  return record;
}

}  // namespace motet::registry
