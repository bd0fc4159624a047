// SPDX-License-Identifier: Apache-2.0
// An adapter as the content of a package: the one place that says how its
// files and its record hang together.
#pragma once

#include <cstdint>

#include "compose/model/encoder_weights.h"
#include "compose/package/package_folder.h"

namespace motet::package {

// Fills kind, base, model, adapter, weights and adapter_config.json; the rest
// is the caller's. queries: that it was trained on, 0 = not known. The lora
// must fit the base (CheckLora) and outlive the content.
void FillAdapter(const OpenedPackage& base, const model::EncoderConfig& config,
                 const model::Lora& lora, uint64_t queries,
                 PackageContent& content);

}  // namespace motet::package
