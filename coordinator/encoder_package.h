// SPDX-License-Identifier: Apache-2.0
// A BERT encoder as the federation's base: read as it lies, written as a
// signed package of kind "encoder" (docs/package.md) without anchor or text.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/federation.h"

namespace motet::coordinator {

// Whether the folder's config.json says model_type "bert".
absl::StatusOr<bool> IsEncoderFolder(const std::string& folder);

// Weights become F32 under a BertModel's names; how vectors are made of
// hidden states and where texts are cut goes along. The package's folder
// appears whole or not at all.
absl::Status WriteEncoderPackage(const Federation& federation,
                                 const std::string& encoder,
                                 const std::string& package_folder,
                                 const std::string& id,
                                 const std::string& spdx);

}  // namespace motet::coordinator
