// SPDX-License-Identifier: Apache-2.0
// What reading any part of a tokenizer.json needs: its type, its flags, and
// an error for each key that we do not know. `where` begins the errors.
#pragma once

#include <initializer_list>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace motet::model {

// Text from a stranger, quoted, escaped, cut to 80 bytes.
std::string ShownPart(absl::string_view text);
// The "type" of an object; an error when there is none.
absl::StatusOr<std::string> PartType(const nlohmann::json& part,
                                     absl::string_view where);
absl::Status CheckPartKeys(const nlohmann::json& part, absl::string_view where,
                           std::initializer_list<absl::string_view> known);
// A truth value that may be absent; anything else there is an error.
absl::StatusOr<bool> PartFlag(const nlohmann::json& part,
                              absl::string_view where, const char* key,
                              bool absent);

}  // namespace motet::model
