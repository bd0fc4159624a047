// SPDX-License-Identifier: Apache-2.0
// Which safetensors files a model's folder consists of.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/package/safetensors.h"

namespace motet::package {

using WeightFiles = std::vector<std::shared_ptr<const SafetensorsFile>>;

// model.safetensors, or weights.safetensors, or the files that
// model.safetensors.index.json lists, each once. NotFound when there is none.
absl::StatusOr<WeightFiles> OpenWeightFiles(const std::string& folder);

}  // namespace motet::package
