// SPDX-License-Identifier: Apache-2.0
// The base and whole branches of it, from their package folders: verified
// against a lock, mapped, every tensor by its name. What merges, averaged
// trunks and experts out of whole models are made from.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "compose/assemble/composition.h"
#include "compose/package/safetensors.h"

namespace motet::assemble {

// By a tensor's name in a dense model's file.
bool IsFfn(absl::string_view name);        // gate, up and down
bool IsAttention(absl::string_view name);  // projections, their biases, norms
                                           // of q and k

struct DenseParts {
  struct Branch {
    std::string folder;
    v1::ExpertManifest manifest;
    std::shared_ptr<const package::SafetensorsFile> weights;
  };
  std::string base_folder;
  v1::ExpertManifest base_manifest;
  std::shared_ptr<const package::SafetensorsFile> base;
  std::vector<Branch> branches;  // in the lock's order

  // Of member 0, the base, or 1.., the branches. A tensor that a branch has
  // in common with the base is the base's, at the same address.
  math::Tensor Find(size_t member, const std::string& name) const;
};
// more: further files of the branches that will be read. InvalidArgument
// where a branch's tensors are not those of the base.
absl::StatusOr<DenseParts> OpenDenseParts(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const std::set<std::string>& more = {});

}  // namespace motet::assemble
