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
// coordinator of this federation, every file's digest, the manifest's digest
// and those of weights and tokenizer against the plan's. A fetched package
// that fails is not kept. Unavailable when the registry cannot be reached.
absl::StatusOr<package::OpenedPackage> EnsureBase(
    const Settings& settings, const v1::BaseReference& wanted,
    registry::Client& client, const registry::Progress& progress);

// Reads what training needs of a verified base package.
absl::StatusOr<Base> LoadBase(package::OpenedPackage opened);

}  // namespace motet::node
