// SPDX-License-Identifier: Apache-2.0
// JSON for people and programs. A path may be any bytes: those that are not
// UTF-8 are replaced, where dump() alone would throw.
#pragma once

#include <string>

namespace motet::coordinator {

// Json: nlohmann's json or ordered_json.
template <typename Json>
std::string JsonText(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace motet::coordinator
