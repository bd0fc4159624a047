// SPDX-License-Identifier: Apache-2.0
#include "compose/package/weight_files.h"

#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::package {
namespace {

using nlohmann::json;
using proto::Invalid;

// The files that model.safetensors.index.json lists, each once.
absl::StatusOr<std::vector<std::string>> ShardNames(const std::string& path) {
  MOTET_ASSIGN_OR_RETURN(
      const std::string text,
      proto::ReadFile(path, proto::kMaxSafetensorsHeaderBytes));
  const json index = json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object()) {
    return Invalid(absl::StrCat("model ", path), "no weight_map",
                   "a JSON object with weight_map", "export the model again");
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    const auto* name = file.get_ptr<const std::string*>();
    if (name == nullptr || absl::StrContains(*name, '/') ||
        !absl::EndsWith(*name, ".safetensors")) {
      return Invalid(absl::StrCat("model ", path),
                     "a weight_map entry that names no safetensors file",
                     "names of files in the same folder");
    }
    names.insert(*name);
  }
  return std::vector<std::string>(names.begin(), names.end());
}

}  // namespace

absl::StatusOr<WeightFiles> OpenWeightFiles(const std::string& folder) {
  std::vector<std::string> names;
  for (const char* name : {"model.safetensors", "weights.safetensors"}) {
    if (names.empty() && proto::Exists(absl::StrCat(folder, "/", name))) {
      names = {name};
    }
  }
  const std::string index = folder + "/model.safetensors.index.json";
  if (names.empty() && proto::Exists(index)) {
    MOTET_ASSIGN_OR_RETURN(names, ShardNames(index));
  }
  if (names.empty()) {
    return proto::Error(absl::StatusCode::kNotFound,
                        absl::StrCat("model ", folder),
                        "no model.safetensors and no weights.safetensors",
                        "one of them", "check the folder");
  }
  WeightFiles files;
  for (const std::string& name : names) {
    MOTET_ASSIGN_OR_RETURN(
        auto file, SafetensorsFile::Open(absl::StrCat(folder, "/", name)));
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace motet::package
