// SPDX-License-Identifier: Apache-2.0
// Package folders against a lock, before anything in them is used.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lock.pb.h"
#include "manifest.pb.h"

namespace motet::assemble {

// An expert package's second moments, where its owner published them.
inline constexpr char kStatisticsFile[] = "statistics.safetensors";

// The file whose digest a lock holds for a package of this kind.
std::string WeightsFile(const v1::ExpertManifest& manifest);

// Signatures were checked when the package was fetched; here the bytes are
// compared with the digests in the lock: the manifest's, and through it every
// file that a composition reads.
absl::Status VerifyBase(const std::string& folder,
                        const v1::BaseReference& base);
// more: further files that will be read.
absl::StatusOr<v1::ExpertManifest> VerifyExpert(
    const std::string& folder, const v1::LockedExpert& expert,
    const std::set<std::string>& more = {});

// The same in two steps: manifests at once, the files they name all together,
// several at a time, and for who can wait for it beside other work.
class Verifier {
 public:
  absl::StatusOr<v1::ExpertManifest> Base(const std::string& folder,
                                          const v1::BaseReference& base);
  absl::StatusOr<v1::ExpertManifest> Expert(
      const std::string& folder, const v1::LockedExpert& expert,
      const std::set<std::string>& more = {});
  absl::StatusOr<v1::ExpertManifest> Pilots(const std::string& folder,
                                            const v1::LockedPilots& pilots);
  // Of all the above; the first that differs, in their order.
  absl::Status Files() const;

 private:
  absl::StatusOr<v1::ExpertManifest> Manifest(
      const std::string& folder, const std::string& manifest_sha256,
      const std::function<bool(const std::string&)>& wanted);
  std::vector<std::pair<std::string, std::string>> files_;  // path, SHA-256
};

// work(0) to work(n - 1), on as many threads as there are processors.
void InParallel(size_t n, const std::function<void(size_t)>& work);

}  // namespace motet::assemble
