// SPDX-License-Identifier: Apache-2.0
// Opening package folders: from a stranger's files to a package that may be
// used. The signature is checked before a byte is parsed.
#include "compose/package/package_folder.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compose/model/config.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_dense.h"
#include "compose/package/manifest_kinds.h"
#include "compose/package/manifest_proxy.h"
#include "compose/package/manifest_retrieval.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/identity.h"
#include "proto/limits.h"
#include "proto/signature.h"

namespace motet::package {
namespace {

void Append(Reasons& to, const Reasons& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// The signed files with their sizes, without manifest.json.
std::map<std::string, FileFacts> Facts(const std::string& folder,
                                       const proto::SignatureInfo& info) {
  std::map<std::string, FileFacts> facts;
  for (const proto::SignedFile& file : info.files) {
    if (file.path == "manifest.json") continue;
    std::error_code error;
    const auto size = std::filesystem::file_size(
        absl::StrCat(folder, "/", file.path), error);
    facts[file.path] = {error ? 0 : static_cast<uint64_t>(size),
                        proto::Hex(file.sha256)};
  }
  return facts;
}

// Only an owner publishes under its name, only a coordinator what is a base.
Reasons CheckSigner(const v1::ExpertManifest& manifest,
                    const proto::SignatureInfo& info,
                    const proto::SpiffeId& signer) {
  Reasons reasons;
  if (info.name != manifest.id()) {
    reasons.push_back(absl::StrCat("signed as ", info.name, ", the id is ",
                                   manifest.id()));
  }
  const std::string owner =
      std::string(manifest.id().substr(0, manifest.id().find('/')));
  const KindRules* kind = FindKind(manifest.kind());
  const bool is_base = kind != nullptr && kind->base == nullptr;
  const bool may = is_base
                       ? signer.role == "coordinator" &&
                             signer.federation == owner
                       : signer.role == "node" && signer.owner == owner;
  if (!may) {
    reasons.push_back(absl::StrCat(
        "signed by ", signer.ToString(), ", want ",
        is_base ? "a coordinator of the federation "
                : "a node of the owner ",
        owner));
  }
  return reasons;
}

// A base's further files; a file that cannot be read is a reason too.
Reasons CheckBaseFiles(const v1::ExpertManifest& manifest,
                       const std::string& folder) {
  const auto text =
      proto::ReadFile(folder + "/config.json", proto::kMaxConfigBytes);
  if (!text.ok()) return {std::string(text.status().message())};
  const auto config = model::ParseConfig(*text);
  const auto anchor = SafetensorsFile::Open(folder + "/anchor.safetensors");
  if (config.ok() && anchor.ok()) {
    return CheckBase(manifest, *config, **anchor);
  }
  Reasons reasons;
  for (const absl::Status& s : {config.status(), anchor.status()}) {
    if (!s.ok()) reasons.emplace_back(s.message());
  }
  return reasons;
}

// The statistics that a whole model may carry.
Reasons CheckWholeFiles(const v1::ExpertManifest& manifest,
                        const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kFisherFile);
  if (!proto::Exists(path)) return {};
  const auto fisher = SafetensorsFile::Open(path);
  if (!fisher.ok()) return {std::string(fisher.status().message())};
  return CheckFisher(manifest, **fisher);
}

// The scores of public documents that any expert may carry.
Reasons CheckProxyFile(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kProxyFile);
  if (!proto::Exists(path)) return {};
  const auto proxy = SafetensorsFile::Open(path);
  if (!proxy.ok()) return {std::string(proxy.status().message())};
  return CheckProxy(**proxy);
}

std::string DigestOfFile(const v1::ExpertManifest& manifest,
                         absl::string_view path) {
  for (const v1::FileDigest& file : manifest.files()) {
    if (file.path() == path) return file.sha256();
  }
  return "";
}

}  // namespace

absl::StatusOr<OpenedPackage> OpenPackage(const std::string& folder,
                                          const std::string& authority_pem) {
  const std::string where = absl::StrCat("package ", folder);
  if (!proto::Exists(folder)) {
    return proto::Error(absl::StatusCode::kNotFound, where, "no such folder",
                        "a package folder", "check the path");
  }
  MOTET_ASSIGN_OR_RETURN(const proto::SignatureInfo info,
                         proto::VerifyPackageFolder(folder, authority_pem));
  MOTET_ASSIGN_OR_RETURN(const proto::CertificateInfo certificate,
                         proto::InspectCertificate(info.certificate_pem));
  MOTET_ASSIGN_OR_RETURN(
      const std::string bytes,
      proto::ReadFile(folder + "/manifest.json", proto::kMaxManifestBytes));
  OpenedPackage opened;
  opened.folder = folder;
  opened.manifest_sha256 = proto::Hex(proto::Sha256(bytes));
  opened.signer = certificate.id.ToString();
  MOTET_ASSIGN_OR_RETURN(opened.manifest, ParseManifest(bytes));
  Reasons reasons = CheckManifest(opened.manifest);
  Append(reasons, CheckFiles(opened.manifest, Facts(folder, info)));
  Append(reasons, CheckSigner(opened.manifest, info, certificate.id));
  auto weights = SafetensorsFile::Open(
      absl::StrCat(folder, "/", WeightsFile(opened.manifest.kind())));
  if (weights.ok()) {
    opened.weights = *std::move(weights);
    Append(reasons, CheckTensors(opened.manifest, *opened.weights));
  } else {
    reasons.emplace_back(weights.status().message());
  }
  Append(reasons, CheckProxyFile(folder));
  if (opened.manifest.kind() == "base") {
    Append(reasons, CheckBaseFiles(opened.manifest, folder));
  } else if (IsWhole(opened.manifest.kind())) {
    Append(reasons, CheckWholeFiles(opened.manifest, folder));
  } else if (const KindRules* kind = FindKind(opened.manifest.kind());
             kind != nullptr && kind->retrieval) {
    Append(reasons, CheckRetrievalFiles(opened.manifest, folder));
  }
  MOTET_RETURN_IF_ERROR(AsStatus(
      where, reasons, "a package as docs/package.md describes it",
      "ask its owner for a correct one"));
  return opened;
}

absl::Status CheckAgainstBase(const OpenedPackage& expert,
                              const OpenedPackage& base) {
  const v1::ExpertManifest& e = expert.manifest;
  const v1::ExpertManifest& b = base.manifest;
  Reasons reasons;
  const KindRules* kind = FindKind(e.kind());
  const KindRules* base_kind = FindKind(b.kind());
  if (base_kind == nullptr || base_kind->base != nullptr) {
    reasons.push_back(absl::StrCat("the base's kind is \"", b.kind(),
                                   "\", want base or encoder"));
  }
  if (kind == nullptr || kind->base == nullptr || b.kind() != kind->base) {
    reasons.push_back(absl::StrCat("kind is \"", e.kind(), "\", want ",
                                   KindNamesOn(b.kind())));
  }
  const auto same = [&](absl::string_view what, const auto& got,
                        const auto& want) {
    if (got == want) return;
    reasons.push_back(absl::StrCat(what, " is ", got, ", want ", want));
  };
  const v1::BaseReference reference = ReferenceTo(base);
  same("base.id", e.base().id(), reference.id());
  same("base.manifest_sha256", e.base().manifest_sha256(),
       reference.manifest_sha256());
  same("base.weights_sha256", e.base().weights_sha256(),
       reference.weights_sha256());
  same("base.tokenizer_sha256", e.base().tokenizer_sha256(),
       reference.tokenizer_sha256());
  if (kind != nullptr && kind->frozen) {
    same("frozen_sha256", e.frozen_sha256(), FrozenDigest(b));
  }
  same("model.block", e.model().block(), b.model().block());
  same("model.layers", e.model().layers(), b.model().layers());
  same("model.width", e.model().width(), b.model().width());
  if (kind == nullptr || !kind->own_width) {
    same("model.ffn_width", e.model().ffn_width(), b.model().ffn_width());
  }
  same("model.vocabulary", e.model().vocabulary(), b.model().vocabulary());
  if (IsWhole(e.kind())) Append(reasons, CheckDense(e, b));
  if (e.kind() == kEmbeddingAdapter && b.kind() == kEncoder) {
    Append(reasons, CheckAdapterOn(expert.folder, base.folder));
  }
  return AsStatus(absl::StrCat("expert ", e.id()), reasons,
                  absl::StrCat("an expert of the base ", b.id()),
                  "train it again on this base");
}

v1::BaseReference ReferenceTo(const OpenedPackage& base) {
  v1::BaseReference reference;
  reference.set_id(base.manifest.id());
  reference.set_manifest_sha256(base.manifest_sha256);
  reference.set_weights_sha256(
      DigestOfFile(base.manifest, "weights.safetensors"));
  reference.set_tokenizer_sha256(
      DigestOfFile(base.manifest, "tokenizer.json"));
  return reference;
}

std::string FrozenDigest(const v1::ExpertManifest& base_manifest) {
  std::map<std::string, std::string> sorted;
  for (const v1::TensorDigest& t : base_manifest.tensors()) {
    sorted[t.name()] = t.sha256();
  }
  proto::Sha256Stream stream;
  for (const auto& [name, sha256] : sorted) {
    stream.Update(absl::StrCat(name, " ", sha256, "\n"));
  }
  return proto::Hex(stream.Finish());
}

std::vector<uint64_t> ChunkCuts(const SafetensorsFile& file) {
  std::vector<uint64_t> cuts;
  for (const SafetensorsFile::Entry& e : file.entries()) {
    if (e.tensor.bytes() > 0) cuts.push_back(e.file_offset);
  }
  return cuts;
}

absl::StatusOr<std::map<std::string, std::vector<uint64_t>>> ChunkCutsOf(
    const std::string& folder) {
  std::map<std::string, std::vector<uint64_t>> cuts;
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         proto::ListDirectory(folder));
  for (const std::string& name : names) {
    if (!absl::EndsWith(name, ".safetensors")) continue;
    MOTET_ASSIGN_OR_RETURN(
        const auto file,
        SafetensorsFile::Open(absl::StrCat(folder, "/", name)));
    cuts[name] = ChunkCuts(*file);
  }
  return cuts;
}

}  // namespace motet::package
