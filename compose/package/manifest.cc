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

// Collects the paths of keys that the message does not have.
void FindUnknown(const json& value, const Descriptor& message,
                 const std::string& path, std::vector<std::string>& unknown) {
  if (!value.is_object()) return;  // protobuf names what is of a wrong type
  for (const auto& [key, item] : value.items()) {
    const std::string at = absl::StrCat(path, absl::CHexEscape(key));
    const FieldDescriptor* field = message.FindFieldByName(key);
    if (field == nullptr) {
      if (unknown.size() < kMostReasons) unknown.push_back(at);
      continue;
    }
    if (field->is_map() ||
        field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      continue;
    }
    const Descriptor& inner = *field->message_type();
    if (field->is_repeated() && item.is_array()) {
      for (size_t i = 0; i < item.size(); ++i) {
        FindUnknown(item[i], inner, absl::StrCat(at, "[", i, "]."), unknown);
      }
    } else {
      FindUnknown(item, inner, at + ".", unknown);
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
  std::vector<std::string> unknown;
  FindUnknown(root, *manifest.GetDescriptor(), "", unknown);
  if (!unknown.empty()) {
    return Invalid(kWhere,
                   absl::StrCat("unknown fields ", absl::StrJoin(unknown, ", ")),
                   "the fields of docs/package.md",
                   "use a program of the version that wrote it");
  }
  const auto status = google::protobuf::util::JsonStringToMessage(
      google::protobuf::StringPiece(bytes.data(), bytes.size()), &manifest);
  if (!status.ok()) {
    return Invalid(kWhere,
                   absl::StrCat("a field of a wrong type (",
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
