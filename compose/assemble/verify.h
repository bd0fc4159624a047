// SPDX-License-Identifier: Apache-2.0
// Package folders against a lock, before anything in them is used.
#pragma once

#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lock.pb.h"
#include "manifest.pb.h"

namespace motet::assemble {

// An expert package's second moments, where its owner published them.
inline constexpr char kStatisticsFile[] = "statistics.safetensors";

// Signatures were checked when the package was fetched; here the bytes are
// compared with the digests in the lock: the manifest's, and through it every
// file that a composition reads.
absl::Status VerifyBase(const std::string& folder,
                        const v1::BaseReference& base);
// more: further files that will be read.
absl::StatusOr<v1::ExpertManifest> VerifyExpert(
    const std::string& folder, const v1::LockedExpert& expert,
    const std::set<std::string>& more = {});

}  // namespace motet::assemble
