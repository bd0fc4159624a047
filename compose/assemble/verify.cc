// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/verify.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_kinds.h"
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

std::string WeightsFile(const v1::ExpertManifest& manifest) {
  return package::WeightsFile(manifest.kind());
}

// The manifest whose digest this is; every file that `wanted` accepts is for
// Files().
absl::StatusOr<v1::ExpertManifest> Verifier::Manifest(
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
    files_.emplace_back(absl::StrCat(folder, "/", file.path()), file.sha256());
  }
  return manifest;
}

absl::StatusOr<v1::ExpertManifest> Verifier::Base(
    const std::string& folder, const v1::BaseReference& base) {
  // Public text is for owners' batches; loading a composition does not
  // read it.
  MOTET_ASSIGN_OR_RETURN(
      v1::ExpertManifest manifest,
      Manifest(folder, base.manifest_sha256(), [](const std::string& path) {
        return absl::EndsWith(path, ".safetensors") ||
               absl::EndsWith(path, ".json");
      }));
  MOTET_RETURN_IF_ERROR(
      Expect(manifest, "weights.safetensors", base.weights_sha256()));
  MOTET_RETURN_IF_ERROR(
      Expect(manifest, "tokenizer.json", base.tokenizer_sha256()));
  return manifest;
}

absl::StatusOr<v1::ExpertManifest> Verifier::Expert(
    const std::string& folder, const v1::LockedExpert& expert,
    const std::set<std::string>& more) {
  MOTET_ASSIGN_OR_RETURN(
      v1::ExpertManifest manifest,
      Manifest(folder, expert.manifest_sha256(), [&](const std::string& path) {
        return path == "weights.safetensors" ||
               path == "adapter_model.safetensors" || more.contains(path);
      }));
  MOTET_RETURN_IF_ERROR(
      Expect(manifest, WeightsFile(manifest), expert.weights_sha256()));
  return manifest;
}

absl::StatusOr<v1::ExpertManifest> Verifier::Pilots(
    const std::string& folder, const v1::LockedPilots& pilots) {
  v1::LockedExpert as;
  as.set_manifest_sha256(pilots.manifest_sha256());
  as.set_weights_sha256(pilots.weights_sha256());
  return Expert(folder, as);
}

absl::Status Verifier::Files() const {
  std::vector<absl::Status> found(files_.size());
  InParallel(files_.size(), [&](size_t i) {
    const auto& [path, want] = files_[i];
    const auto digest = proto::Sha256File(path);
    if (!digest.ok()) {
      found[i] = digest.status();
    } else if (const std::string got = proto::Hex(*digest); got != want) {
      found[i] = Differs(path, got, want);
    }
  });
  for (const absl::Status& status : found) MOTET_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

absl::Status VerifyBase(const std::string& folder,
                        const v1::BaseReference& base) {
  Verifier verifier;
  MOTET_RETURN_IF_ERROR(verifier.Base(folder, base).status());
  return verifier.Files();
}

absl::StatusOr<v1::ExpertManifest> VerifyExpert(
    const std::string& folder, const v1::LockedExpert& expert,
    const std::set<std::string>& more) {
  Verifier verifier;
  MOTET_ASSIGN_OR_RETURN(v1::ExpertManifest manifest,
                         verifier.Expert(folder, expert, more));
  MOTET_RETURN_IF_ERROR(verifier.Files());
  return manifest;
}

void InParallel(size_t n, const std::function<void(size_t)>& work) {
  const size_t threads = std::min<size_t>(
      n, std::max(1u, std::thread::hardware_concurrency()));
  if (threads < 2) {
    for (size_t i = 0; i < n; ++i) work(i);
    return;
  }
  std::atomic<size_t> next = 0;
  std::vector<std::thread> workers;
  for (size_t t = 0; t < threads; ++t) {
    workers.emplace_back([&] {
      for (size_t i = next++; i < n; i = next++) work(i);
    });
  }
  for (std::thread& worker : workers) worker.join();
}

}  // namespace motet::assemble
