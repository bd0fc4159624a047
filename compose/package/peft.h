// SPDX-License-Identifier: Apache-2.0
// LoRA adapters in PEFT's layout: adapter_config.json and
// adapter_model.safetensors, in and out.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compose/model/encoder_weights.h"
#include "compose/package/safetensors.h"

namespace motet::package {

// An adapter ready to use. F32 tensors are used where they lie.
struct LoadedLora {
  model::Lora lora;
  std::shared_ptr<const SafetensorsFile> file;  // keeps it mapped
  std::deque<std::vector<float>> copies;        // of BF16 and F16 tensors
};

// Reads an adapter of an encoder with this config. InvalidArgument names
// every field that asks for more than plain LoRA (a bias, DoRA, rank-
// stabilised scaling, patterns, ...), every missing, unknown or ill-shaped
// tensor, and tensors with infinities or NaN.
absl::StatusOr<std::unique_ptr<LoadedLora>> LoadLora(
    const std::string& folder, const model::EncoderConfig& base);

// The same adapter_config.json that PEFT writes, for fuzzing and tests too.
absl::StatusOr<model::LoraConfig> ParseLoraConfig(const std::string& json);
std::string WriteLoraConfig(const model::LoraConfig& config,
                            const std::string& base_name);

// The tensors of an adapter's file, under PEFT's names.
std::vector<NamedTensor> LoraTensors(const model::EncoderConfig& base,
                                     const model::Lora& lora);

// Writes an adapter that stock peft loads; adapter_config.json last. Each
// file is written atomically. base_name: what the adapter says of its base,
// a folder or a name; may be empty.
absl::Status SaveLora(const std::string& folder,
                      const model::EncoderConfig& base, const model::Lora& lora,
                      const std::string& base_name = "");

}  // namespace motet::package
