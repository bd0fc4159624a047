// SPDX-License-Identifier: Apache-2.0
#include "node/base_store.h"

#include <filesystem>
#include <functional>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "compose/learn/corpus.h"
#include "compose/package/manifest_kinds.h"
#include "compose/package/manifest_licence.h"
#include "compose/package/manifest_retrieval.h"
#include "compose/package/safetensors.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/identity.h"
#include "proto/limits.h"

namespace motet::node {
namespace {

// Signature, files and manifest; then signer and the plan's digests, all that
// does not fit at once.
absl::StatusOr<package::OpenedPackage> Verify(const Settings& settings,
                                              const std::string& folder,
                                              const v1::BaseReference& wanted,
                                              absl::string_view kind) {
  MOTET_ASSIGN_OR_RETURN(
      std::string authority,
      proto::ReadFile(settings.Path("ca.pem"), proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(package::OpenedPackage opened,
                         package::OpenPackage(folder, authority));
  std::vector<std::string> problems;
  const auto same = [&](absl::string_view what, const std::string& got,
                        const std::string& want) {
    if (got != want) {
      problems.push_back(absl::StrCat(what, " is ", got, ", the plan wants ",
                                      want));
    }
  };
  const auto signer = proto::ParseSpiffeId(opened.signer);
  if (!signer.ok() || signer->role != "coordinator" ||
      signer->federation != settings.federation) {
    problems.push_back(absl::StrCat("it is signed by ", opened.signer,
                                    ", not by a coordinator of ",
                                    settings.federation));
  }
  if (opened.manifest.kind() != kind) {
    problems.push_back(absl::StrCat("its kind is \"", opened.manifest.kind(),
                                    "\", the plan wants \"", kind, "\""));
  }
  same("manifest", opened.manifest_sha256, wanted.manifest_sha256());
  const v1::BaseReference got = package::ReferenceTo(opened);
  same("weights", got.weights_sha256(), wanted.weights_sha256());
  same("tokenizer", got.tokenizer_sha256(), wanted.tokenizer_sha256());
  if (problems.empty()) return opened;
  return proto::Error(absl::StatusCode::kFailedPrecondition, folder,
                      absl::StrJoin(problems, "; "),
                      "the base that the plan names",
                      "ask the coordinator for a plan on this base");
}

std::vector<float> Floats(const math::Tensor& tensor) {
  return {tensor.f32(), tensor.f32() + tensor.size()};
}

absl::StatusOr<std::vector<learn::AnchorLayer>> LoadAnchor(
    const std::string& path, const model::ModelConfig& config) {
  MOTET_ASSIGN_OR_RETURN(auto file, package::SafetensorsFile::Open(path));
  const int64_t c = config.width;
  std::vector<learn::AnchorLayer> layers;
  for (int64_t l = 0; l < config.layers; ++l) {
    learn::AnchorLayer layer;
    for (auto& [name, shape, out] :
         {std::tuple{"mean", math::Shape{c}, &layer.mean},
          std::tuple{"covariance", math::Shape{c, c}, &layer.covariance},
          std::tuple{"precision", math::Shape{c, c}, &layer.precision}}) {
      const std::string full = absl::StrCat("layers.", l, ".", name);
      const math::Tensor tensor = file->Find(full);
      if (tensor.empty() || tensor.dtype != math::DType::kF32 ||
          !(tensor.shape == shape)) {
        return proto::Invalid(
            path,
            absl::StrCat(full, tensor.empty()
                                   ? " missing"
                                   : absl::StrCat(" as ", Name(tensor.dtype),
                                                  tensor.shape.ToString())),
            absl::StrCat("F32", shape.ToString()),
            "the base package is not whole: have it made again");
      }
      *out = Floats(tensor);
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

}  // namespace

namespace {

using Check =
    std::function<absl::StatusOr<package::OpenedPackage>(const std::string&)>;

// KIND/MANIFEST_SHA256 of the node's folder: there, or fetched; verified.
absl::StatusOr<package::OpenedPackage> Ensure(
    const Settings& settings, const std::string& parent,
    const std::string& manifest_sha256, const Check& verify,
    registry::Client& client, const registry::Progress& progress) {
  const std::string folder =
      settings.Path(absl::StrCat(parent, "/", manifest_sha256));
  if (proto::Exists(folder)) {
    auto opened = verify(folder);
    // What the plan, the owner or a licence does not allow, no fetch mends.
    if (opened.ok() || absl::IsFailedPrecondition(opened.status())) {
      return opened;
    }
    return absl::Status(opened.status().code(),
                        absl::StrCat(opened.status().message(), "; remove ",
                                     folder, " to fetch it again"));
  }
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(settings.Path(parent), 0700));
  // Fetched beside its place: a folder named by a digest has been verified.
  const std::string fetched = absl::StrCat(folder, ".fetched");
  if (!proto::Exists(fetched)) {
    MOTET_RETURN_IF_ERROR(
        client.Fetch(manifest_sha256, fetched, progress).status());
  }
  if (auto opened = verify(fetched); !opened.ok()) {
    std::error_code error;
    std::filesystem::remove_all(fetched, error);
    return opened.status();
  }
  MOTET_RETURN_IF_ERROR(proto::RenameDurably(fetched, folder));
  return verify(folder);
}

absl::StatusOr<package::OpenedPackage> VerifyAdapter(
    const Settings& settings, const std::string& folder,
    const v1::ScoredExpert& wanted, const package::OpenedPackage& base) {
  MOTET_ASSIGN_OR_RETURN(
      const std::string authority,
      proto::ReadFile(settings.Path("ca.pem"), proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(package::OpenedPackage opened,
                         package::OpenPackage(folder, authority));
  std::vector<std::string> problems;
  const auto same = [&](absl::string_view what, const std::string& got,
                        const std::string& want) {
    if (got == want) return;
    problems.push_back(
        absl::StrCat(what, " is ", got, ", the plan wants ", want));
  };
  same("kind", opened.manifest.kind(), package::kEmbeddingAdapter);
  same("id", opened.manifest.id(), wanted.id());
  same("manifest", opened.manifest_sha256, wanted.manifest_sha256());
  same("weights", package::WeightsSha256(opened.manifest),
       wanted.weights_sha256());
  if (!absl::StartsWith(wanted.id(), absl::StrCat(settings.owner, "/"))) {
    const std::string reason = package::WithheldByTerms(
        opened.manifest.licence(), package::kScoringPurpose, settings.owner,
        absl::Now());
    if (!reason.empty()) problems.push_back(reason);
  }
  if (!problems.empty()) {
    return proto::Error(absl::StatusCode::kFailedPrecondition, wanted.id(),
                        absl::StrJoin(problems, "; "),
                        "the adapter that the plan names, for scoring",
                        "ask the coordinator for a plan without it");
  }
  MOTET_RETURN_IF_ERROR(package::CheckAgainstBase(opened, base));
  return opened;
}

}  // namespace

absl::StatusOr<package::OpenedPackage> EnsureBase(
    const Settings& settings, const v1::BaseReference& wanted,
    absl::string_view kind, registry::Client& client,
    const registry::Progress& progress) {
  return Ensure(
      settings, "base", wanted.manifest_sha256(),
      [&](const std::string& folder) {
        return Verify(settings, folder, wanted, kind);
      },
      client, progress);
}

absl::StatusOr<package::OpenedPackage> EnsureAdapter(
    const Settings& settings, const v1::ScoredExpert& wanted,
    const package::OpenedPackage& base, registry::Client& client,
    const registry::Progress& progress) {
  MOTET_ASSIGN_OR_RETURN(const v1::PackageRecord record,
                         client.Inspect(wanted.manifest_sha256()));
  if (record.revoked()) {
    return proto::Error(absl::StatusCode::kFailedPrecondition, wanted.id(),
                        absl::StrCat("a package that is revoked (",
                                     record.revoked_reason(), ")"),
                        "adapters that may be used",
                        "ask the coordinator for a plan without it");
  }
  return Ensure(
      settings, "adapters", wanted.manifest_sha256(),
      [&](const std::string& folder) {
        return VerifyAdapter(settings, folder, wanted, base);
      },
      client, progress);
}

absl::StatusOr<Base> LoadBase(package::OpenedPackage opened) {
  Base base;
  base.package = std::move(opened);
  const std::string& folder = base.package.folder;
  MOTET_ASSIGN_OR_RETURN(base.model, package::LoadModel(folder));
  if (base.model->tokenizer == nullptr) {
    return proto::Invalid(folder, "no tokenizer.json", "a whole base package",
                          "have it made again");
  }
  MOTET_ASSIGN_OR_RETURN(base.public_documents,
                         learn::ReadJsonl(folder + "/public.jsonl"));
  MOTET_ASSIGN_OR_RETURN(
      base.anchor,
      LoadAnchor(folder + "/anchor.safetensors", base.model->config));
  return base;
}

}  // namespace motet::node
