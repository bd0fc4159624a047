// SPDX-License-Identifier: Apache-2.0
#include <sstream>

#include "compose/assemble/recipe.h"
#include "proto/error.h"
#include "toml++/toml.h"

namespace motet::assemble {

absl::StatusOr<std::string> RecipeWith(const std::string& toml,
                                       const std::vector<std::string>& experts,
                                       const std::vector<int>& positions,
                                       const std::vector<std::string>& data) {
  toml::table table;
  try {
    table = toml::parse(toml);
  } catch (const toml::parse_error& error) {
    return proto::Invalid("recipe", std::string(error.description()), "TOML");
  }
  toml::array names;
  for (const std::string& expert : experts) names.push_back(expert);
  table.insert_or_assign("experts", std::move(names));
  // Which lists have one entry an expert.
  for (const auto& [section, key] : {std::pair{"merge", "weights"}}) {
    toml::array* list = table[section][key].as_array();
    if (list == nullptr) continue;
    toml::array kept;
    for (const int at : positions) {
      if (at < 0 || at >= static_cast<int>(list->size())) continue;
      (*list)[static_cast<size_t>(at)].visit(
          [&](const auto& value) { kept.push_back(value); });
    }
    *list = std::move(kept);
  }
  if (toml::table* tuning = table["tuning"].as_table();
      tuning != nullptr && !data.empty()) {
    toml::array files;
    for (const std::string& file : data) files.push_back(file);
    tuning->insert_or_assign("data", std::move(files));
  }
  std::ostringstream text;
  text << table << "\n";
  return text.str();
}

absl::StatusOr<std::string> RecipeWithPilots(
    const std::string& toml, const std::vector<std::string>& pilots) {
  toml::table table;
  try {
    table = toml::parse(toml);
  } catch (const toml::parse_error& error) {
    return proto::Invalid("recipe", std::string(error.description()), "TOML");
  }
  if (!pilots.empty()) {
    table.insert("retriever", toml::table{});
  }
  if (toml::table* retriever = table["retriever"].as_table()) {
    retriever->erase("pilots");
    toml::array names;
    for (const std::string& id : pilots) names.push_back(id);
    if (!pilots.empty()) retriever->insert("pilots", std::move(names));
  }
  std::ostringstream text;
  text << table << "\n";
  return text.str();
}

absl::StatusOr<std::string> RecipeFrom(const std::string& toml,
                                       const std::string& folder) {
  toml::table table;
  try {
    table = toml::parse(toml);
  } catch (const toml::parse_error& error) {
    return proto::Invalid("recipe", std::string(error.description()), "TOML");
  }
  toml::table* ensemble = table["ensemble"].as_table();
  const auto path = table["ensemble"]["prior_text"].value<std::string>();
  if (ensemble == nullptr || !path || path->empty() || path->front() == '/') {
    return toml;
  }
  ensemble->insert_or_assign("prior_text", folder + "/" + *path);
  std::ostringstream text;
  text << table << "\n";
  return text.str();
}

}  // namespace motet::assemble
