// SPDX-License-Identifier: Apache-2.0
#include "compose/model/tokenizer_part.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/error.h"

namespace motet::model {

using nlohmann::json;
using proto::Invalid;

std::string ShownPart(absl::string_view text) {
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 80)), "\"");
}

absl::StatusOr<std::string> PartType(const json& part,
                                     absl::string_view where) {
  const auto type = part.is_object() ? part.find("type") : part.end();
  if (!part.is_object() || type == part.end() || !type->is_string()) {
    return Invalid(where, part.is_null() ? "none" : "a part without type",
                   "an object with a type", "use another tokenizer");
  }
  return type->get<std::string>();
}

absl::Status CheckPartKeys(const json& part, absl::string_view where,
                           std::initializer_list<absl::string_view> known) {
  for (const auto& [key, value] : part.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return Invalid(where, absl::StrCat("key ", ShownPart(key)),
                     "keys that we know", "use another tokenizer");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> PartFlag(const json& part, absl::string_view where,
                              const char* key, bool absent) {
  const auto it = part.find(key);
  if (it == part.end()) return absent;
  if (!it->is_boolean()) {
    return Invalid(where, absl::StrCat(key, " that is no truth value"),
                   "true or false");
  }
  return it->get<bool>();
}

}  // namespace motet::model
