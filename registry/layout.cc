// SPDX-License-Identifier: Apache-2.0
#include "registry/layout.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/files.h"
#include "registry/record.h"

namespace motet::registry {
namespace {

constexpr char kLayout[] = "motet-registry layout 1\n";

}  // namespace

std::string BigEndianBytes(uint64_t value) {
  std::string bytes;
  for (int shift = 56; shift >= 0; shift -= 8) {
    bytes.push_back(static_cast<char>(value >> shift));
  }
  return bytes;
}

uint64_t BigEndian(absl::string_view bytes) {
  uint64_t value = 0;
  for (char byte : bytes.substr(0, 8)) {
    value = value << 8 | static_cast<uint8_t>(byte);
  }
  return value;
}

std::string SummaryKey(absl::string_view id) { return absl::StrCat("m", id); }
std::string FilesKey(absl::string_view id) { return absl::StrCat("f", id); }
std::string ManifestKey(const proto::Digest& sha256) {
  return absl::StrCat("d", proto::ToBytes(sha256));
}
std::string PresenceKey(const proto::Digest& sha256) {
  return absl::StrCat("c", proto::ToBytes(sha256));
}
std::string LogKey(uint64_t index) {
  return absl::StrCat("e", BigEndianBytes(index));
}

absl::Status CheckLayout(const std::string& folder) {
  const std::string path = folder + "/layout";
  if (!proto::Exists(path)) {
    MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                           proto::ListDirectory(folder));
    for (const std::string& name : names) {
      if (name == "lock") continue;
      return proto::Error(absl::StatusCode::kFailedPrecondition,
                          "registry store",
                          absl::StrCat(folder, " with ", Printable(name),
                                       " but no file \"layout\""),
                          "an empty folder or a registry's data",
                          "give the registry a folder of its own");
    }
    return proto::WriteFileAtomic(path, kLayout);
  }
  MOTET_ASSIGN_OR_RETURN(const std::string layout,
                         proto::ReadFile(path, /*max_bytes=*/4096));
  if (layout == kLayout) return absl::OkStatus();
  return proto::Error(absl::StatusCode::kFailedPrecondition, "registry store",
                      absl::StrCat("\"", Printable(layout), "\" in ", path),
                      absl::StrCat("\"", Printable(kLayout), "\""),
                      "use the version of motet-registry that wrote it");
}

}  // namespace motet::registry
