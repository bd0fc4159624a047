// SPDX-License-Identifier: Apache-2.0
#include "coordinator/federation.h"

#include <toml++/toml.h>

#include "absl/strings/str_cat.h"
#include "compose/package/package_folder.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"
#include "proto/signature.h"

namespace motet::coordinator {

std::string Federation::Path(const std::string& relative) const {
  return absl::StrCat(folder, "/", relative);
}

absl::StatusOr<Federation> OpenFederation(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/motet.toml");
  if (!proto::Exists(path)) {
    return proto::Error(
        absl::StatusCode::kNotFound, "federation",
        absl::StrCat("no ", path), "a federation's folder",
        "make one with `motet init NAME --federation DIR`, or name it with "
        "--federation DIR or MOTET_FEDERATION");
  }
  MOTET_ASSIGN_OR_RETURN(std::string text,
                         proto::ReadFile(path, proto::kMaxRecipeBytes));
  Federation f;
  f.folder = folder;
  try {
    const toml::table table = toml::parse(text, path);
    for (const auto& [key, value] : table) {
      const std::string name(key.str());
      std::string* target = name == "name"          ? &f.name
                            : name == "registry"    ? &f.registry_address
                            : name == "coordinator" ? &f.coordinator_address
                                                    : nullptr;
      if (target == nullptr) {
        return proto::Invalid(
            absl::StrCat(path, ":", value.source().begin.line),
            absl::StrCat("unknown key \"", name, "\""),
            "name, registry or coordinator", "remove or correct it");
      }
      const auto text_value = value.value<std::string>();
      if (!text_value) {
        return proto::Invalid(
            absl::StrCat(path, ":", value.source().begin.line),
            absl::StrCat("key \"", name, "\" that is no text"), "a string");
      }
      *target = *text_value;
    }
  } catch (const toml::parse_error& e) {
    return proto::Invalid(absl::StrCat(path, ":", e.source().begin.line),
                          std::string(e.description()), "TOML",
                          "correct the line");
  }
  MOTET_RETURN_IF_ERROR(proto::CheckName(path, f.name));
  f.tls = {f.Path("ca/ca.pem"), f.Path("coordinator/certificate.pem"),
           f.Path("coordinator/key.pem")};
  MOTET_ASSIGN_OR_RETURN(
      f.authority_pem,
      proto::ReadFile(f.tls.authority, proto::kMaxCertificateBytes));
  return f;
}

absl::StatusOr<std::string> LocalPackage(const Federation& federation,
                                         registry::Client& client,
                                         const std::string& id_or_sha256) {
  std::string sha256 = id_or_sha256;
  if (!proto::DigestFromHex(sha256).ok()) {
    MOTET_ASSIGN_OR_RETURN(v1::PackageRecord record,
                           client.Inspect(id_or_sha256));
    sha256 = proto::Hex(record.manifest_sha256());
  }
  const std::string folder = federation.Path(absl::StrCat("packages/", sha256));
  if (!proto::Exists(folder)) {
    MOTET_RETURN_IF_ERROR(proto::MakeDirectories(federation.Path("packages")));
    MOTET_RETURN_IF_ERROR(client.Fetch(sha256, folder, nullptr).status());
  }
  // Verified at every use: the disk is not trusted to have kept it.
  MOTET_RETURN_IF_ERROR(
      package::OpenPackage(folder, federation.authority_pem).status());
  return folder;
}

absl::StatusOr<std::string> SignedPackage(const Federation& federation,
                                          registry::Client& client,
                                          const std::string& sha256) {
  const std::string folder = federation.Path(absl::StrCat("packages/", sha256));
  if (!proto::Exists(folder)) return LocalPackage(federation, client, sha256);
  MOTET_ASSIGN_OR_RETURN(
      const std::string signature,
      proto::ReadFile(folder + "/model.sig", proto::kMaxSignatureBytes));
  MOTET_ASSIGN_OR_RETURN(
      const proto::SignatureInfo info,
      proto::VerifySignature(signature, federation.authority_pem));
  for (const proto::SignedFile& file : info.files) {
    if (file.path != "manifest.json") continue;
    if (proto::Hex(file.sha256) == sha256) return folder;
  }
  return proto::Error(absl::StatusCode::kDataLoss, folder + "/model.sig",
                      "the signature of another manifest",
                      absl::StrCat("that of ", sha256),
                      "remove the folder, so that it is fetched again");
}

}  // namespace motet::coordinator
