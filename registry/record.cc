// SPDX-License-Identifier: Apache-2.0
#include "registry/record.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/error.h"
#include "proto/identity.h"
#include "proto/limits.h"

namespace motet::registry {
namespace {

using proto::Invalid;

bool AllOf(absl::string_view text, bool (*test)(char)) {
  return std::all_of(text.begin(), text.end(), test);
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameChar(char c) {
  return IsDigit(c) || (c >= 'a' && c <= 'z') || c == '-';
}
bool IsPathChar(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' ||
         c == '_' || c == '-' || c == '+';
}
bool IsPreReleaseChar(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' ||
         c == '-';
}

// digits.digits.digits[-pre]; numbers without leading zeros, as semver wants.
bool IsVersion(absl::string_view version) {
  absl::string_view numbers = version;
  const size_t dash = version.find('-');
  if (dash != absl::string_view::npos) {
    numbers = version.substr(0, dash);
    const absl::string_view pre = version.substr(dash + 1);
    if (pre.empty() || pre.size() > 64 || !AllOf(pre, IsPreReleaseChar)) {
      return false;
    }
  }
  const std::vector<absl::string_view> parts = absl::StrSplit(numbers, '.');
  if (parts.size() != 3) return false;
  for (absl::string_view part : parts) {
    if (part.empty() || part.size() > 9 || !AllOf(part, IsDigit)) return false;
    if (part.size() > 1 && part[0] == '0') return false;
  }
  return true;
}

absl::Status BadId(absl::string_view id) {
  return Invalid("package id", absl::StrCat("\"", Printable(id), "\""),
                 "owner/name@version such as clinic.example/cardiology@1.0.0",
                 "use a-z, 0-9 and '-' in the name and three numbers in the "
                 "version");
}

absl::Status CheckFile(const std::string& where, const v1::FileEntry& file) {
  MOTET_RETURN_IF_ERROR(CheckPath(file.path()));
  const std::string at = absl::StrCat(where, " ", file.path());
  if (file.sha256().size() != 32) {
    return Invalid(at,
                   absl::StrCat("a digest of ", file.sha256().size(), " bytes"),
                   "SHA-256, 32 bytes");
  }
  // No overflow: at most 2^32 chunks of at most 2^20 bytes.
  uint64_t sum = 0;
  for (int i = 0; i < file.chunks_size(); ++i) {
    const v1::ChunkRef& chunk = file.chunks(i);
    if (chunk.sha256().size() != 32 || chunk.size_bytes() == 0 ||
        chunk.size_bytes() > proto::kMaxChunkBytes) {
      return Invalid(at,
                     absl::StrCat("chunk ", i, " of ", chunk.size_bytes(),
                                  " bytes with a digest of ",
                                  chunk.sha256().size(), " bytes"),
                     absl::StrCat("chunks of 1 to ", proto::kMaxChunkBytes,
                                  " bytes with a 32-byte digest"));
    }
    sum += chunk.size_bytes();
  }
  if (sum != file.size_bytes()) {
    return Invalid(at, absl::StrCat("chunks of ", sum, " bytes together"),
                   absl::StrCat("the file's ", file.size_bytes(), " bytes"));
  }
  int64_t limit = proto::kMaxPackageBytes;
  if (file.path() == kManifestFile) limit = proto::kMaxManifestBytes;
  if (file.path() == kSignatureFile) limit = proto::kMaxSignatureBytes;
  if (sum > static_cast<uint64_t>(limit)) {
    return Invalid(at, absl::StrCat(sum, " bytes"),
                   absl::StrCat("at most ", limit, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string Printable(absl::string_view text) {
  constexpr size_t kMost = 300;
  if (text.size() <= kMost) return absl::CEscape(text);
  return absl::StrCat(absl::CEscape(text.substr(0, kMost)), "...");
}

absl::StatusOr<PackageId> ParsePackageId(absl::string_view id) {
  if (id.size() > static_cast<size_t>(proto::kMaxIdLength)) {
    return Invalid("package id", absl::StrCat(id.size(), " characters"),
                   absl::StrCat("at most ", proto::kMaxIdLength));
  }
  const size_t slash = id.find('/');
  const size_t at = id.find('@');
  if (slash == absl::string_view::npos || at == absl::string_view::npos ||
      at < slash) {
    return BadId(id);
  }
  const absl::string_view owner = id.substr(0, slash);
  const absl::string_view name = id.substr(slash + 1, at - slash - 1);
  const absl::string_view version = id.substr(at + 1);
  if (owner.empty() || name.empty() || name.size() > 64 ||
      !AllOf(name, IsNameChar) || !IsVersion(version)) {
    return BadId(id);
  }
  MOTET_RETURN_IF_ERROR(proto::CheckName("owner in a package id", owner));
  return PackageId{std::string(owner), std::string(name), std::string(version)};
}

absl::Status CheckPath(absl::string_view path) {
  bool good =
      !path.empty() && path.size() <= static_cast<size_t>(proto::kMaxIdLength);
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    good = good && !part.empty() && part != "." && part != ".." &&
           AllOf(part, IsPathChar);
  }
  if (good) return absl::OkStatus();
  return Invalid("package file", absl::StrCat("\"", Printable(path), "\""),
                 "a relative path of letters, digits and . _ + -",
                 "rename the file");
}

absl::Status CheckRecord(const v1::PackageRecord& record) {
  MOTET_RETURN_IF_ERROR(ParsePackageId(record.id()).status());
  const std::string where = absl::StrCat("package ", record.id());
  if (record.ByteSizeLong() >
      static_cast<size_t>(proto::kMaxRpcMessageBytes) - 4096) {
    return Invalid(
        where, absl::StrCat("a record of ", record.ByteSizeLong(), " bytes"),
        absl::StrCat("at most ", proto::kMaxRpcMessageBytes - 4096),
        "cut the files into fewer chunks");
  }
  if (record.files_size() > proto::kMaxPackageFiles) {
    return Invalid(where, absl::StrCat(record.files_size(), " files"),
                   absl::StrCat("at most ", proto::kMaxPackageFiles));
  }
  uint64_t total = 0;
  std::vector<absl::string_view> paths;
  for (const v1::FileEntry& file : record.files()) {
    MOTET_RETURN_IF_ERROR(CheckFile(where, file));
    if (!paths.empty() && paths.back() >= file.path()) {
      return Invalid(where, absl::StrCat(file.path(), " after ", paths.back()),
                     "files sorted by path, each once");
    }
    // "a" and "a/b" cannot both be: files between them in the order ("a-b")
    // make it necessary to look at all, of which there are few.
    for (absl::string_view earlier : paths) {
      if (absl::StartsWith(file.path(), absl::StrCat(earlier, "/"))) {
        return Invalid(where,
                       absl::StrCat("files ", earlier, " and ", file.path()),
                       "no file where another file needs a folder");
      }
    }
    paths.push_back(file.path());
    total += file.size_bytes();
  }
  if (total > static_cast<uint64_t>(proto::kMaxPackageBytes)) {
    return Invalid(where, absl::StrCat(total, " bytes"),
                   absl::StrCat("at most ", proto::kMaxPackageBytes));
  }
  const v1::FileEntry* manifest = FindFile(record, kManifestFile);
  if (manifest == nullptr || FindFile(record, kSignatureFile) == nullptr) {
    return Invalid(where,
                   absl::StrCat("no ", manifest == nullptr ? kManifestFile
                                                           : kSignatureFile),
                   "manifest.json and model.sig among the files",
                   "sign the package before publishing it");
  }
  if (manifest->sha256() != record.manifest_sha256()) {
    return Invalid(
        where,
        absl::StrCat("manifest_sha256 ", proto::Hex(record.manifest_sha256())),
        absl::StrCat("the digest of manifest.json, ",
                     proto::Hex(manifest->sha256())));
  }
  return absl::OkStatus();
}

const v1::FileEntry* FindFile(const v1::PackageRecord& record,
                              absl::string_view path) {
  for (const v1::FileEntry& file : record.files()) {
    if (file.path() == path) return &file;
  }
  return nullptr;
}

uint64_t TotalBytes(const v1::PackageRecord& record) {
  uint64_t total = 0;
  for (const v1::FileEntry& file : record.files()) total += file.size_bytes();
  return total;
}

bool SameContent(const v1::PackageRecord& a, const v1::PackageRecord& b) {
  return a.id() == b.id() && a.manifest_sha256() == b.manifest_sha256() &&
         std::equal(a.files().begin(), a.files().end(), b.files().begin(),
                    b.files().end(),
                    [](const v1::FileEntry& x, const v1::FileEntry& y) {
                      return x.path() == y.path() &&
                             x.size_bytes() == y.size_bytes() &&
                             x.sha256() == y.sha256();
                    });
}

proto::Digest AsDigest(absl::string_view bytes) {
  proto::Digest digest{};
  std::copy_n(bytes.begin(), std::min(bytes.size(), digest.size()),
              digest.begin());
  return digest;
}

}  // namespace motet::registry
