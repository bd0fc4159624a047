// SPDX-License-Identifier: Apache-2.0
// A PEFT LoRA adapter of a decoder, folded into its base. Adapters of the
// BERT encoder, which are used beside their base, are peft.h's.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/model/encoder_weights.h"
#include "compose/model/weights.h"

namespace motet::package {

struct FoldedLora {
  model::ModelWeights weights;  // the base's, but for the adapted maps
  model::LoraConfig config;
  int64_t maps = 0;             // that the adapter changes
  std::vector<std::unique_ptr<char[]>> storage;
};
// Folds an adapter of plain LoRA over any of q_proj, k_proj, v_proj, o_proj,
// gate_proj, up_proj and down_proj into the base.
//   W' = W + (alpha / r) B A                              [LoRA eq. 3]
// W: [out, in], A: [r, in], B: [out, r]. Summed in double, rounded once, to
// W's dtype. The base must outlive the result. InvalidArgument names every
// field of adapter_config.json that asks for more than plain LoRA, every
// target that a decoder does not have, every missing, unknown or ill-shaped
// tensor, and tensors with infinities or NaN.
absl::StatusOr<FoldedLora> FoldLora(const std::string& folder,
                                    const model::ModelConfig& config,
                                    const model::ModelWeights& base);

}  // namespace motet::package
