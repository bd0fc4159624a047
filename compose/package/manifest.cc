// SPDX-License-Identifier: Apache-2.0
// manifest.json as text. protobuf's own JSON reader is lenient (two spellings
// a field, repeated keys); what it would take but another reader might read
// differently is refused before it is asked.
#include "compose/package/manifest.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/model/strict_json.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/limits.h"

namespace motet::package {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using nlohmann::json;
using proto::Invalid;

constexpr absl::string_view kWhere = "manifest.json";
constexpr size_t kMostReasons = 50;

// What JSON a field takes: protobuf would take a lone value for a list, null
// for anything and numbers for text.
const char* Wanted(const FieldDescriptor& field, bool element) {
  if (field.is_map()) return "an object";
  if (field.is_repeated() && !element) return "an array";
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) return "an object";
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) return "text";
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) return "true or false";
  return "a number";
}

bool Is(const json& value, absl::string_view wanted) {
  if (wanted == "an object") return value.is_object();
  if (wanted == "an array") return value.is_array();
  if (wanted == "text") return value.is_string();
  if (wanted == "true or false") return value.is_boolean();
  return value.is_number() || value.is_string();  // 64 bits travel as text
}

// Collects what the message has no place for.
void FindMisfits(const json& object, const Descriptor& message,
                 const std::string& path, std::vector<std::string>& misfits);

void CheckField(const json& value, const FieldDescriptor& field, bool element,
                const std::string& at, std::vector<std::string>& misfits) {
  const char* wanted = Wanted(field, element);
  if (!Is(value, wanted)) {
    misfits.push_back(absl::StrCat(at, " is not ", wanted));
    return;
  }
  if (field.is_map()) return;
  if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i) {
      CheckField(value[i], field, true, absl::StrCat(at, "[", i, "]"),
                 misfits);
    }
  } else if (value.is_object()) {
    FindMisfits(value, *field.message_type(), at + ".", misfits);
  }
}

void FindMisfits(const json& object, const Descriptor& message,
                 const std::string& path, std::vector<std::string>& misfits) {
  for (const auto& [key, value] : object.items()) {
    const std::string at = absl::StrCat(path, absl::CHexEscape(key));
    const FieldDescriptor* field = message.FindFieldByName(key);
    if (field == nullptr) {
      misfits.push_back(absl::StrCat(at, " is unknown"));
    } else {
      CheckField(value, *field, /*element=*/false, at, misfits);
    }
  }
}

}  // namespace

absl::StatusOr<v1::ExpertManifest> ParseManifest(absl::string_view bytes) {
  if (bytes.size() > static_cast<size_t>(proto::kMaxManifestBytes)) {
    return Invalid(kWhere, absl::StrCat(bytes.size(), " bytes"),
                   absl::StrCat("at most ", proto::kMaxManifestBytes));
  }
  MOTET_ASSIGN_OR_RETURN(const json root,
                         model::ParseStrictJson(bytes, kWhere));
  if (!root.is_object()) return Invalid(kWhere, "no object", "an object");
  v1::ExpertManifest manifest;
  std::vector<std::string> misfits;
  FindMisfits(root, *manifest.GetDescriptor(), "", misfits);
  MOTET_RETURN_IF_ERROR(AsStatus(kWhere, misfits,
                                 "the fields of docs/package.md",
                                 "use a program of the version that wrote it"));
  const auto status = google::protobuf::util::JsonStringToMessage(
      google::protobuf::StringPiece(bytes.data(), bytes.size()), &manifest);
  if (!status.ok()) {
    return Invalid(kWhere,
                   absl::StrCat("a value that does not fit (",
                                absl::CHexEscape(
                                    status.ToString().substr(0, 300)),
                                ")"),
                   "the fields of docs/package.md");
  }
  return manifest;
}

absl::StatusOr<std::string> WriteManifest(const v1::ExpertManifest& manifest) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(
      manifest, &text, options);
  if (!status.ok()) {
    return Invalid(kWhere,
                   absl::CHexEscape(status.ToString().substr(0, 300)),
                   "a manifest that JSON can hold");
  }
  // Maps come in any order from protobuf: sorted here.
  auto root = nlohmann::ordered_json::parse(text, nullptr, false);
  if (root.contains("training") &&
      root["training"].contains("hyper_parameters")) {
    auto& map = root["training"]["hyper_parameters"];
    const std::map<std::string, nlohmann::ordered_json> sorted(
        map.get_ref<nlohmann::ordered_json::object_t&>().begin(),
        map.get_ref<nlohmann::ordered_json::object_t&>().end());
    map = nlohmann::ordered_json::object();
    for (const auto& [key, value] : sorted) map[key] = value;
  }
  text = root.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
  if (text.size() > static_cast<size_t>(proto::kMaxManifestBytes)) {
    return Invalid(kWhere, absl::StrCat(text.size(), " bytes"),
                   absl::StrCat("at most ", proto::kMaxManifestBytes));
  }
  return text;
}

absl::Status AsStatus(absl::string_view where,
                      const std::vector<std::string>& reasons,
                      absl::string_view want, absl::string_view hint) {
  if (reasons.empty()) return absl::OkStatus();
  const size_t shown = std::min(reasons.size(), kMostReasons);
  std::string list =
      absl::StrJoin(reasons.begin(), reasons.begin() + shown, "; ");
  if (shown < reasons.size()) {
    absl::StrAppend(&list, "; and ", reasons.size() - shown, " more");
  }
  return Invalid(where,
                 absl::StrCat(reasons.size(), " defect",
                              reasons.size() == 1 ? "" : "s", " (", list, ")"),
                 want, hint);
}

}  // namespace motet::package
