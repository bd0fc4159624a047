// SPDX-License-Identifier: Apache-2.0
// What every request in JSON shares: a body within bounds, a table of its
// fields, and the kinds of value that a field takes. Whatever is wrong is
// named by its field.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "generation.pb.h"
#include "nlohmann/json.hpp"

namespace motet::coordinator {

// `field` got this value, which is not what it wants.
absl::Status Wrong(const std::string& field, const nlohmann::json& got,
                   absl::string_view want);

// A body that is a JSON object, in UTF-8, not nested beyond any request of
// ours; `hint` shows one.
absl::StatusOr<nlohmann::json> ParseBody(absl::string_view body,
                                         absl::string_view hint);

// What to do with a field's value, and the table of a request's fields.
using Take = std::function<absl::Status(const nlohmann::json&)>;
using Fields = std::map<std::string, Take>;
// Null is as if left out. A field that is not in the table is an error with
// those that are; so is a request that names no model.
absl::Status TakeFields(const nlohmann::json& body, const Fields& fields);

// Each sets its target, or leaves it as it is and says what is wrong.
Take TakeNumber(const char* field, double least, double most, bool integer,
                std::function<void(double)> set);
Take TakeFlag(const char* field, std::function<void(bool)> set);
Take TakeText(const char* field, size_t most_bytes,
              std::function<void(const std::string&)> set);
// A field that would change the result and is not done here: only its neutral
// value is accepted.
Take TakeNeutral(const char* field, nlohmann::json value);
// {"include": […], "exclude": […], "active": 2}
Take TakeExperts(v1::ExpertSelection* selection);
Take TakePurpose(std::string* purpose);

inline constexpr size_t kMaxModelBytes = 4096;
// The name that a request asks for: ours, or NAME@no-code@no-legal for
// clients that can set nothing else, which excludes those. NotFound: another.
absl::Status SelectByName(const std::string& name, const std::string& ours,
                          v1::ExpertSelection* selection);

}  // namespace motet::coordinator
