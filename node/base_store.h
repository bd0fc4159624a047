// SPDX-License-Identifier: Apache-2.0
// The base that a plan names, in base/MANIFEST_SHA256/: fetched from the
// registry once, verified at every use. A plan's digests enter, a loaded,
// checked model with its public text and anchor leaves.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compose/learn/statistics.h"
#include "compose/package/huggingface.h"
#include "compose/package/package_folder.h"
#include "manifest.pb.h"
#include "training.pb.h"
#include "node/settings.h"
#include "registry/client.h"

namespace motet::node {

struct Base {
  package::OpenedPackage package;
  std::unique_ptr<package::LoadedModel> model;
  std::vector<std::string> public_documents;
  std::vector<learn::AnchorLayer> anchor;
};

// Fetches when the folder is not there, then checks: signature by a
// coordinator of this federation, kind ("base" or "encoder"), every file's
// digest, the manifest's digest and those of weights and tokenizer against the
// plan's. A fetched package that fails is not kept. Unavailable when the
// registry cannot be reached.
absl::StatusOr<package::OpenedPackage> EnsureBase(
    const Settings& settings, const v1::BaseReference& wanted,
    absl::string_view kind, registry::Client& client,
    const registry::Progress& progress);

// An adapter that a plan has the owner's queries ranked with, likewise in
// adapters/MANIFEST_SHA256/. Checked besides: it is of this base, and either
// the owner's or of a licence that allows scoring; nothing that was revoked,
// at this moment, is used.
absl::StatusOr<package::OpenedPackage> EnsureAdapter(
    const Settings& settings, const v1::ScoredExpert& wanted,
    const package::OpenedPackage& base, registry::Client& client,
    const registry::Progress& progress);

// Reads what training needs of a verified base package.
absl::StatusOr<Base> LoadBase(package::OpenedPackage opened);

}  // namespace motet::node
