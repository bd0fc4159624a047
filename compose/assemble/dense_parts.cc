// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/dense_parts.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compose/assemble/verify.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_dense.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::assemble {

using package::SafetensorsFile;

namespace {

// Of the file itself, whatever its manifest says. FFNs may have widths of
// their own, which the decoder checks.
void CheckShapes(const SafetensorsFile& own, const SafetensorsFile& base,
                 std::vector<std::string>& reasons) {
  for (const SafetensorsFile::Entry& e : base.entries()) {
    const math::Tensor t = own.Find(e.name);
    if (t.empty() || t.shape == e.tensor.shape) continue;
    if (IsFfn(e.name) && t.shape.rank == e.tensor.shape.rank) continue;
    reasons.push_back(absl::StrCat("tensor ", e.name, " is ",
                                   t.shape.ToString(), ", the base's is ",
                                   e.tensor.shape.ToString()));
  }
}

}  // namespace

bool IsFfn(absl::string_view name) {
  return absl::StrContains(name, ".mlp.");
}

bool IsAttention(absl::string_view name) {
  return absl::StrContains(name, ".self_attn.");
}

math::Tensor DenseParts::Find(size_t member, const std::string& name) const {
  if (member == 0) return base->Find(name);
  return package::DenseTensor(*branches[member - 1].weights, *base, name);
}

absl::StatusOr<DenseParts> OpenDenseParts(const v1::CompositionLock& lock,
                                          const PackageFolder& folder_of,
                                          const std::set<std::string>& more) {
  DenseParts parts;
  MOTET_ASSIGN_OR_RETURN(parts.base_folder,
                         folder_of(lock.base().manifest_sha256()));
  MOTET_RETURN_IF_ERROR(VerifyBase(parts.base_folder, lock.base()));
  MOTET_ASSIGN_OR_RETURN(const std::string text,
                         proto::ReadFile(parts.base_folder + "/manifest.json",
                                         proto::kMaxManifestBytes));
  MOTET_ASSIGN_OR_RETURN(parts.base_manifest, package::ParseManifest(text));
  MOTET_ASSIGN_OR_RETURN(
      parts.base,
      SafetensorsFile::Open(parts.base_folder + "/weights.safetensors"));
  for (const v1::LockedExpert& expert : lock.experts()) {
    DenseParts::Branch branch;
    MOTET_ASSIGN_OR_RETURN(branch.folder,
                           folder_of(expert.manifest_sha256()));
    MOTET_ASSIGN_OR_RETURN(branch.manifest,
                           VerifyExpert(branch.folder, expert, more));
    MOTET_ASSIGN_OR_RETURN(
        branch.weights,
        SafetensorsFile::Open(branch.folder + "/weights.safetensors"));
    std::vector<std::string> reasons =
        package::CheckDense(branch.manifest, parts.base_manifest);
    CheckShapes(*branch.weights, *parts.base, reasons);
    MOTET_RETURN_IF_ERROR(package::AsStatus(
        absl::StrCat("expert ", expert.id()), reasons,
        absl::StrCat("a branch of the base ", lock.base().id()),
        "ask its owner for a correct one"));
    parts.branches.push_back(std::move(branch));
  }
  return parts;
}

}  // namespace motet::assemble
