// SPDX-License-Identifier: Apache-2.0
// A composition as a Hugging Face folder that stock transformers loads.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/composition.h"

namespace motet::assemble {

struct ExportReport {
  std::string architecture;      // of config.json
  std::vector<std::string> lost;  // what the layout cannot hold
};
struct ExportOptions {
  bool replace = false;  // an earlier export at `folder`, and nothing else
  std::function<void(double fraction)> progress;  // may be null
};
// The Hugging Face architecture that makes the composition's choices: over a
// post-norm base FlexOlmo, over a pre-norm one Mixtral, OLMoE or Qwen3-MoE, as
// its QK-norm says; a merge as the base's own. Weights, config.json, tokenizer
// files, and motet.lock, which says where every part came from. Experts
// narrower than the widest are zero-padded, exact for SwiGLU [METHODS 1,
// Export]. Tensors are written piece by piece from where they lie: resident
// memory does not grow with the model.
// What the composition has left to verify is, beside the writing.
// InvalidArgument names every field that no architecture can have.
// `folder` must not exist or be empty (AlreadyExists), unless it is replaced;
// it appears whole or stays as it was, whatever ends the export. A folder
// .NAME.partial beside it is of one that was killed: the next export to
// `folder` removes it.
absl::StatusOr<ExportReport> ExportHuggingFace(
    const Composition& composition, const std::string& folder,
    const ExportOptions& options = {});

}  // namespace motet::assemble
