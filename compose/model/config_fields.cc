// SPDX-License-Identifier: Apache-2.0
#include "compose/model/config_fields.h"

#include "absl/strings/str_cat.h"
#include "proto/limits.h"

namespace motet::model {

std::string ShowConfigValue(const ConfigJson& value) {
  std::string text =
      value.dump(-1, ' ', true, ConfigJson::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

absl::StatusOr<ConfigJson> ParseConfigObject(const std::string& text,
                                             ConfigRefusal* refusal) {
  if (static_cast<int64_t>(text.size()) > proto::kMaxConfigBytes) {
    return refusal(absl::StrCat(text.size(), " bytes (want at most ",
                                proto::kMaxConfigBytes, ")"));
  }
  // Nesting is bounded too: printing a value descends into it.
  constexpr int kMaxDepth = 16;
  bool too_deep = false;
  std::vector<std::set<std::string>> keys;  // of the objects being read
  std::string duplicate;
  const auto watch = [&](int depth, ConfigJson::parse_event_t event,
                         ConfigJson& parsed) {
    if (depth > kMaxDepth) too_deep = true;
    if (event == ConfigJson::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == ConfigJson::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == ConfigJson::parse_event_t::key) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second && duplicate.empty()) {
        duplicate = key;
      }
    }
    return depth <= kMaxDepth;
  };
  ConfigJson object =
      ConfigJson::parse(text, watch, /*allow_exceptions=*/false);
  if (too_deep) {
    return refusal(absl::StrCat("more than ", kMaxDepth, " levels"));
  }
  if (object.is_discarded()) return refusal("text that is not JSON");
  if (!object.is_object()) return refusal(ShowConfigValue(object));
  if (!duplicate.empty()) {
    return refusal(absl::StrCat(
        "the key ", ShowConfigValue(ConfigJson(duplicate)), " twice"));
  }
  return object;
}

const ConfigJson* ConfigFields::Take(const std::string& key) {
  taken_.insert(key);
  const auto it = object_.find(key);
  return it == object_.end() ? nullptr : &*it;
}

void ConfigFields::Refuse(const std::string& key, const ConfigJson* value,
                          const std::string& want) {
  reasons_.push_back(absl::StrCat(
      key, value == nullptr ? " absent" : " = ",
      value == nullptr ? "" : ShowConfigValue(*value), " (want ", want, ")"));
}

int64_t ConfigFields::Size(const std::string& key, const int64_t* fallback) {
  const ConfigJson* value = Take(key);
  if ((value == nullptr || value->is_null()) && fallback != nullptr) {
    return *fallback;
  }
  // Sizes proper are bounded by CheckConfig; this keeps them representable.
  if (value == nullptr || !value->is_number_unsigned() ||
      value->get<uint64_t>() > uint64_t{1} << 40) {
    Refuse(key, value, "a positive whole number");
    return 1;
  }
  return value->get<int64_t>();
}

double ConfigFields::Real(const std::string& key) {
  const ConfigJson* value = Take(key);
  if (value == nullptr || !value->is_number()) {
    Refuse(key, value, "a number");
    return 0;
  }
  return value->get<double>();
}

bool ConfigFields::Flag(const std::string& key) {
  const ConfigJson* value = Take(key);
  if (value == nullptr) return false;
  if (!value->is_boolean()) {
    Refuse(key, value, "true or false");
    return false;
  }
  return value->get<bool>();
}

int32_t ConfigFields::Id(const std::string& key, int64_t vocabulary) {
  const ConfigJson* value = Take(key);
  if (value == nullptr || value->is_null()) return -1;
  const ConfigJson* number =
      value->is_array() && value->size() == 1 ? &value->front() : value;
  if (!number->is_number_unsigned() ||
      number->get<uint64_t>() >= static_cast<uint64_t>(vocabulary)) {
    Refuse(key, value,
           absl::StrCat("null or one id below vocab_size = ", vocabulary));
    return -1;
  }
  return number->get<int32_t>();
}

void ConfigFields::Only(const std::string& key, const char* want) {
  const ConfigJson* value = Take(key);
  if (value == nullptr || value->is_null()) return;
  if (*value != ConfigJson::parse(want)) Refuse(key, value, want);
}

void ConfigFields::RefuseRest() {
  for (const auto& [key, value] : object_.items()) {
    if (!taken_.contains(key) && !value.is_null()) {
      Refuse(key, &value,
             "no such field: this build does not know what "
             "it would change");
    }
  }
}

}  // namespace motet::model
