// SPDX-License-Identifier: Apache-2.0
// A package that is a whole model ("dense", "attention_ffn", "sized"), ready
// to run: its own tensors where it has them, the base's where it has none, in
// its own FFN width.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "compose/package/huggingface.h"
#include "compose/package/package_folder.h"

namespace motet::package {

// The expert has passed CheckAgainstBase beside the base that `base` was
// loaded from. Views: the base must outlive the branch, whose tokenizer (null
// here) is the base's too. InvalidArgument lists what does not fit.
absl::StatusOr<std::unique_ptr<LoadedModel>> LoadBranch(
    const OpenedPackage& expert, const LoadedModel& base);

}  // namespace motet::package
