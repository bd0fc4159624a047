// SPDX-License-Identifier: Apache-2.0
// From a lock and package folders to a merge: which tensors there are, where
// they lie, and the stream that makes the merged file.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "compose/assemble/composition.h"
#include "compose/assemble/merge.h"

namespace motet::assemble {

// Verified against the lock; keeps what is mapped.
struct MergeParts {
  std::vector<std::shared_ptr<const package::SafetensorsFile>> files;
  std::vector<MergeTensor> tensors;
  int64_t bytes() const;  // of the merged weights
};
absl::StatusOr<MergeParts> OpenMergeParts(const v1::CompositionLock& lock,
                                          const PackageFolder& folder_of);

// Merges into a file, or into memory. The file takes its name when it is
// complete.
absl::Status MergeToFile(const MergeRule& rule, MergeParts parts,
                         const std::string& path,
                         const BuildProgress& progress);
absl::StatusOr<std::shared_ptr<const package::SafetensorsFile>> MergeToMemory(
    const MergeRule& rule, MergeParts parts);

}  // namespace motet::assemble
