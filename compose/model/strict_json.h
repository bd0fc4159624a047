// SPDX-License-Identifier: Apache-2.0
// JSON from strangers: as nlohmann::json reads it, but a key given twice, a
// depth beyond 64 and malformed text are errors, never exceptions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace motet::model {

// `where` begins the error: "[where] got ...".
absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text,
                                               absl::string_view where);

}  // namespace motet::model
