// SPDX-License-Identifier: Apache-2.0
// Making package folders: files, their digests, manifest, signature, in a
// temporary folder that takes its name only when it is complete.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_kinds.h"
#include "compose/package/package_folder.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/signature.h"

namespace motet::package {
namespace {

std::string Now() {
  const time_t now = time(nullptr);
  tm parts;
  gmtime_r(&now, &parts);
  char text[32];
  strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

// Files that this function's caller may not name, because they are made here.
absl::Status CheckNames(const PackageContent& content) {
  std::set<std::string> names;
  for (const auto& [name, bytes] : content.files) names.insert(name);
  for (const auto& [name, tensors] : content.tensor_files) {
    if (!names.insert(name).second) {
      return proto::Invalid("package", absl::StrCat("file ", name, " twice"),
                            "every name once");
    }
  }
  for (const std::string& name : names) {
    MOTET_RETURN_IF_ERROR(proto::CheckPackagePath("package", name));
    for (const char* made :
         {"manifest.json", "model.sig", WeightsFile(content.manifest.kind()),
          "README.md"}) {
      if (name == made) {
        return proto::Invalid("package",
                              absl::StrCat("a further file ", name),
                              "other names than those that are made here");
      }
    }
  }
  return absl::OkStatus();
}

// Files without manifest and signature, into an empty folder.
absl::Status WriteFiles(const std::string& folder,
                        const PackageContent& content) {
  for (const auto& [name, bytes] : content.files) {
    const std::string path = absl::StrCat(folder, "/", name);
    MOTET_RETURN_IF_ERROR(proto::MakeDirectories(
        std::filesystem::path(path).parent_path().string()));
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(path, bytes));
  }
  for (const auto& [name, tensors] : content.tensor_files) {
    MOTET_RETURN_IF_ERROR(
        WriteSafetensors(absl::StrCat(folder, "/", name), tensors));
  }
  MOTET_RETURN_IF_ERROR(
      proto::WriteFileAtomic(folder + "/README.md", content.readme));
  return WriteSafetensors(
      absl::StrCat(folder, "/", WeightsFile(content.manifest.kind())),
      content.weights);
}

absl::Status Fill(const std::string& folder, const PackageContent& content,
                  const std::string& private_pem,
                  const std::string& certificate_pem) {
  MOTET_RETURN_IF_ERROR(WriteFiles(folder, content));
  v1::ExpertManifest manifest = content.manifest;
  manifest.set_schema_version(1);
  if (manifest.created_at().empty()) manifest.set_created_at(Now());
  MOTET_ASSIGN_OR_RETURN(
      const auto weights,
      SafetensorsFile::Open(
          absl::StrCat(folder, "/", WeightsFile(manifest.kind()))));
  manifest.clear_tensors();
  for (v1::TensorDigest& t : TensorTable(*weights)) {
    *manifest.add_tensors() = std::move(t);
  }
  std::vector<proto::SignedFile> to_sign;
  std::map<std::string, uint64_t> sizes;  // sorted by path
  for (const auto& [name, bytes] : content.files) sizes[name] = bytes.size();
  for (const auto& [name, tensors] : content.tensor_files) {
    MOTET_ASSIGN_OR_RETURN(
        const auto file,
        SafetensorsFile::Open(absl::StrCat(folder, "/", name)));
    sizes[name] = file->file_bytes();
  }
  sizes["README.md"] = content.readme.size();
  sizes[WeightsFile(manifest.kind())] = weights->file_bytes();
  manifest.clear_files();
  for (const auto& [name, size] : sizes) {
    MOTET_ASSIGN_OR_RETURN(const proto::Digest digest,
                           proto::Sha256File(absl::StrCat(folder, "/", name)));
    v1::FileDigest* file = manifest.add_files();
    file->set_path(name);
    file->set_size_bytes(size);
    file->set_sha256(proto::Hex(digest));
    to_sign.push_back({name, digest});
  }
  MOTET_RETURN_IF_ERROR(AsStatus(absl::StrCat("package ", manifest.id()),
                                 CheckManifest(manifest),
                                 "a manifest as docs/package.md describes it"));
  MOTET_ASSIGN_OR_RETURN(const std::string bytes, WriteManifest(manifest));
  MOTET_RETURN_IF_ERROR(
      proto::WriteFileAtomic(folder + "/manifest.json", bytes));
  to_sign.push_back({"manifest.json", proto::Sha256(bytes)});
  MOTET_ASSIGN_OR_RETURN(
      const std::string signature,
      proto::SignFiles(manifest.id(), std::move(to_sign), private_pem,
                       certificate_pem));
  return proto::WriteFileAtomic(folder + "/model.sig", signature);
}

}  // namespace

absl::Status BuildPackage(const std::string& folder,
                          const PackageContent& content,
                          const std::string& private_pem,
                          const std::string& certificate_pem) {
  const std::string where = absl::StrCat("package ", folder);
  if (proto::Exists(folder)) {
    return proto::Error(absl::StatusCode::kAlreadyExists, where,
                        "a folder that exists", "a new one",
                        "move it away or choose another name");
  }
  MOTET_RETURN_IF_ERROR(CheckNames(content));
  const std::string parent =
      std::filesystem::path(folder).parent_path().string();
  if (!parent.empty()) MOTET_RETURN_IF_ERROR(proto::MakeDirectories(parent));
  std::string temporary = absl::StrCat(folder, ".tmp.XXXXXX");
  if (mkdtemp(temporary.data()) == nullptr ||
      chmod(temporary.c_str(), 0755) != 0) {
    return proto::Error(absl::ErrnoToStatusCode(errno), where,
                        absl::StrCat("\"", strerror(errno), "\""),
                        "a temporary folder beside it");
  }
  absl::Status status =
      Fill(temporary, content, private_pem, certificate_pem);
  if (status.ok()) status = proto::RenameDurably(temporary, folder);
  if (!status.ok()) {
    std::error_code ignored;
    std::filesystem::remove_all(temporary, ignored);
  }
  return status;
}

}  // namespace motet::package
