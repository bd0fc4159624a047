// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/verify.h"

#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compose/package/manifest.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::assemble {
namespace {

absl::Status Differs(const std::string& where, const std::string& got,
                     const std::string& want) {
  return proto::Error(absl::StatusCode::kDataLoss, where,
                      absl::StrCat("SHA-256 ", got),
                      absl::StrCat("the lock's ", want),
                      "remove the folder, so that it is fetched again");
}

// The manifest whose digest this is, once every file it names that
// `wanted` accepts has been compared with it.
absl::StatusOr<v1::ExpertManifest> Verify(
    const std::string& folder, const std::string& manifest_sha256,
    const std::function<bool(const std::string&)>& wanted) {
  const std::string path = folder + "/manifest.json";
  MOTET_ASSIGN_OR_RETURN(const std::string text,
                         proto::ReadFile(path, proto::kMaxManifestBytes));
  const std::string got = proto::Hex(proto::Sha256(text));
  if (got != manifest_sha256) return Differs(path, got, manifest_sha256);
  MOTET_ASSIGN_OR_RETURN(v1::ExpertManifest manifest,
                         package::ParseManifest(text));
  for (const v1::FileDigest& file : manifest.files()) {
    if (!wanted(file.path())) continue;
    const std::string file_path = absl::StrCat(folder, "/", file.path());
    MOTET_ASSIGN_OR_RETURN(const proto::Digest digest,
                           proto::Sha256File(file_path));
    if (proto::Hex(digest) != file.sha256()) {
      return Differs(file_path, proto::Hex(digest), file.sha256());
    }
  }
  return manifest;
}

absl::Status Expect(const v1::ExpertManifest& manifest,
                    const std::string& path, const std::string& sha256) {
  for (const v1::FileDigest& file : manifest.files()) {
    if (file.path() != path) continue;
    if (file.sha256() == sha256) return absl::OkStatus();
    return Differs(absl::StrCat(manifest.id(), " ", path), file.sha256(),
                   sha256);
  }
  return proto::Invalid(manifest.id(), absl::StrCat("no ", path), "one");
}

}  // namespace

absl::Status VerifyBase(const std::string& folder,
                        const v1::BaseReference& base) {
  // Public text is for owners' batches; a composition does not read it.
  MOTET_ASSIGN_OR_RETURN(
      const v1::ExpertManifest manifest,
      Verify(folder, base.manifest_sha256(), [](const std::string& path) {
        return absl::EndsWith(path, ".safetensors") ||
               path == "config.json" || path == "tokenizer.json";
      }));
  MOTET_RETURN_IF_ERROR(
      Expect(manifest, "weights.safetensors", base.weights_sha256()));
  return Expect(manifest, "tokenizer.json", base.tokenizer_sha256());
}

absl::StatusOr<v1::ExpertManifest> VerifyExpert(
    const std::string& folder, const v1::LockedExpert& expert,
    const std::set<std::string>& more) {
  MOTET_ASSIGN_OR_RETURN(
      v1::ExpertManifest manifest,
      Verify(folder, expert.manifest_sha256(), [&](const std::string& path) {
        return path == "weights.safetensors" || more.contains(path);
      }));
  MOTET_RETURN_IF_ERROR(
      Expect(manifest, "weights.safetensors", expert.weights_sha256()));
  return manifest;
}

}  // namespace motet::assemble
