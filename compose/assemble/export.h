// SPDX-License-Identifier: Apache-2.0
// A composition as a Hugging Face folder that stock transformers loads.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/composition.h"

namespace motet::assemble {

struct ExportReport {
  std::string architecture;      // of config.json
  std::vector<std::string> lost;  // what the layout cannot hold
};
// FlexOlmoForCausalLM over a post-norm base, MixtralForCausalLM over a
// pre-norm one, a merge as the base's own architecture: weights, config.json,
// tokenizer files, and motet.lock, which says where every part came from.
// Experts narrower than the widest are zero-padded, exact for SwiGLU
// [METHODS 1, Export]. Tensors are written one by one from where they lie.
// `folder` must not exist or be empty; one without config.json is not finished.
absl::StatusOr<ExportReport> ExportHuggingFace(const Composition& composition,
                                               const std::string& folder);

}  // namespace motet::assemble
