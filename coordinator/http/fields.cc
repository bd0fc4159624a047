// SPDX-License-Identifier: Apache-2.0
#include "coordinator/http/fields.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "compose/math/operators.h"
#include "coordinator/stream_text.h"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

using nlohmann::json;

constexpr int kMaxNames = 64;
constexpr size_t kMaxPurposeBytes = 100;

absl::Status Names(const std::string& field, const json& value,
                   google::protobuf::RepeatedPtrField<std::string>* out) {
  if (value.is_array() && value.size() <= kMaxNames &&
      std::all_of(value.begin(), value.end(),
                  [](const json& v) { return v.is_string(); })) {
    for (const json& v : value) *out->Add() = v.get<std::string>();
    return absl::OkStatus();
  }
  return Wrong(field, value, "a list of experts' names");
}

absl::Status Experts(const json& value, v1::ExpertSelection* selection) {
  if (!value.is_object()) {
    return Wrong("experts", value,
                 "{\"include\": […], \"exclude\": […], \"active\": 2}");
  }
  for (const auto& [key, names] : value.items()) {
    if (names.is_null()) continue;
    if (key == "include") {
      MOTET_RETURN_IF_ERROR(
          Names("experts.include", names, selection->mutable_include()));
    } else if (key == "exclude") {
      MOTET_RETURN_IF_ERROR(
          Names("experts.exclude", names, selection->mutable_exclude()));
    } else if (key == "active") {
      const bool fits = names.is_number_integer() && names.get<double>() >= 1 &&
                        names.get<double>() <= math::kMaxExperts;
      if (!fits) {
        return Wrong(
            "experts.active", names,
            absl::StrCat("a whole number from 1 to ", math::kMaxExperts));
      }
      selection->set_active(names.get<uint32_t>());
    } else {
      return proto::Invalid("experts", absl::StrCat("key \"", key, "\""),
                            "include, exclude or active");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Wrong(const std::string& field, const json& got,
                   absl::string_view want) {
  std::string text = got.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "…";
  return proto::Invalid(field, ValidUtf8(text), want);
}

absl::StatusOr<json> ParseBody(absl::string_view body, absl::string_view hint) {
  if (const std::string text(body); ValidUtf8(text) != text) {
    return proto::Invalid("body", "bytes that are not UTF-8", "JSON in UTF-8");
  }
  // Nested deeper than any request of ours is: refused before it is built.
  bool too_deep = false;
  json parsed = json::parse(
      body.begin(), body.end(),
      [&](int depth, json::parse_event_t, json&) {
        too_deep = too_deep || depth > 16;
        return !too_deep;
      },
      /*allow_exceptions=*/false);
  if (parsed.is_discarded() || !parsed.is_object() || too_deep) {
    return proto::Invalid(
        "body",
        parsed.is_discarded() ? "malformed JSON" : "JSON that is no request",
        "a JSON object", absl::StrCat("send ", hint));
  }
  return parsed;
}

absl::Status TakeFields(const json& body, const Fields& fields) {
  for (const auto& [key, value] : body.items()) {
    const auto field = fields.find(key);
    if (field == fields.end()) {
      std::vector<std::string> known;
      for (const auto& [name, take] : fields) known.push_back(name);
      return proto::Invalid(
          "body", absl::StrCat("field \"", ValidUtf8(key), "\""),
          absl::StrCat("one of ", absl::StrJoin(known, ", ")), "remove it");
    }
    if (!value.is_null()) MOTET_RETURN_IF_ERROR(field->second(value));
  }
  if (const auto model = body.find("model");
      model == body.end() || model->is_null()) {
    return proto::Invalid("model", "none", "the model's name");
  }
  return absl::OkStatus();
}

Take TakeNumber(const char* field, double least, double most, bool integer,
                std::function<void(double)> set) {
  return [=](const json& v) -> absl::Status {
    if (!v.is_number() || (integer && !v.is_number_integer()) ||
        !(v.get<double>() >= least && v.get<double>() <= most)) {
      return Wrong(
          field, v,
          absl::StrFormat("%s from %.15g to %.15g",
                          integer ? "an integer" : "a number", least, most));
    }
    set(v.get<double>());
    return absl::OkStatus();
  };
}

Take TakeFlag(const char* field, std::function<void(bool)> set) {
  return [=](const json& v) -> absl::Status {
    if (!v.is_boolean()) return Wrong(field, v, "true or false");
    set(v.get<bool>());
    return absl::OkStatus();
  };
}

Take TakeText(const char* field, size_t most_bytes,
              std::function<void(const std::string&)> set) {
  return [=](const json& v) -> absl::Status {
    if (!v.is_string() || v.get_ref<const std::string&>().size() > most_bytes) {
      return Wrong(field, v,
                   absl::StrCat("a text of at most ", most_bytes, " bytes"));
    }
    set(v.get<std::string>());
    return absl::OkStatus();
  };
}

Take TakeNeutral(const char* field, json value) {
  return [field, value = std::move(value)](const json& v) -> absl::Status {
    if (v == value) return absl::OkStatus();
    return Wrong(field, v,
                 absl::StrCat(value.dump(),
                              ", as long as this "
                              "server has nothing else"));
  };
}

Take TakeExperts(v1::ExpertSelection* selection) {
  return [selection](const json& v) { return Experts(v, selection); };
}

Take TakePurpose(std::string* purpose) {
  return TakeText("purpose", kMaxPurposeBytes,
                  [purpose](const std::string& text) { *purpose = text; });
}

absl::Status SelectByName(const std::string& name, const std::string& ours,
                          v1::ExpertSelection* selection) {
  // Our own name may hold an @.
  absl::string_view rest = name;
  if (!absl::ConsumePrefix(&rest, ours) || (!rest.empty() && rest[0] != '@')) {
    return proto::Error(absl::StatusCode::kNotFound, "model",
                        absl::StrCat("\"", ValidUtf8(name), "\""),
                        absl::StrCat("\"", ours, "\""),
                        "GET /v1/models lists what is served");
  }
  const std::vector<std::string> parts = absl::StrSplit(rest, '@');
  for (size_t i = 1; i < parts.size(); ++i) {
    if (!absl::StartsWith(parts[i], "no-")) {
      return proto::Invalid("model", absl::StrCat("\"", ValidUtf8(name), "\""),
                            "NAME or NAME@no-EXPERT");
    }
    selection->add_exclude(parts[i].substr(3));
  }
  return absl::OkStatus();
}

}  // namespace motet::coordinator
