// SPDX-License-Identifier: Apache-2.0
// The rules of a package record: how ids, paths and chunk lists must look.
// The registry applies them to what a publisher announces, a client to what a
// registry answers: neither trusts the other. Pure functions, no input or
// output.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/digest.h"
#include "registry.pb.h"

namespace motet::registry {

inline constexpr char kManifestFile[] = "manifest.json";
inline constexpr char kSignatureFile[] = "model.sig";

// owner/name@version, for example clinic.example/cardiology@1.2.0.
struct PackageId {
  std::string owner;    // as proto::CheckName wants it
  std::string name;     // [a-z0-9-], 1 to 64
  std::string version;  // digits.digits.digits, optionally -pre
};
absl::StatusOr<PackageId> ParsePackageId(absl::string_view id);

// Relative, '/' separated, of [A-Za-z0-9._+-], no component "." or "..".
absl::Status CheckPath(absl::string_view path);

// Everything that can be known without the bytes: id, paths (sorted, unique,
// no file where another needs a folder), chunk sizes that add up, manifest and
// signature present, manifest_sha256 the digest of manifest.json, all limits
// of proto/limits.h. The first defect is returned.
absl::Status CheckRecord(const v1::PackageRecord& record);

// The entry with that path, or nullptr.
const v1::FileEntry* FindFile(const v1::PackageRecord& record,
                              absl::string_view path);
uint64_t TotalBytes(const v1::PackageRecord& record);
// Same id, same manifest and the same bytes in every file. How the files were
// cut into chunks does not matter.
bool SameContent(const v1::PackageRecord& a, const v1::PackageRecord& b);

// A digest that CheckRecord has seen to be 32 bytes long.
proto::Digest AsDigest(absl::string_view bytes);

// Text from outside made fit for one line of a message: escaped, shortened.
std::string Printable(absl::string_view text);

}  // namespace motet::registry
