// SPDX-License-Identifier: Apache-2.0
// What motet-registry is told: one table of settings, each from a flag, the
// environment, the TOML file or its default, in this order.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "registry/server.h"

namespace motet::registry {

struct Setting {
  const char* key;            // in the file; --key and MOTET_REGISTRY_KEY too
  const char* default_value;  // nullptr: must be given
  bool is_path;  // relative ones in the file are relative to the file's folder
  const char* help;
};
// Every setting there is.
const std::vector<Setting>& Settings();
// "--private-key" of private_key.
std::string FlagName(const std::string& key);

struct Value {
  std::string text;
  std::string source;  // "--flag", "MOTET_REGISTRY_X", "file.toml", "default"
};
struct Config {
  std::map<std::string, Value> values;  // one for each setting
  const std::string& at(const std::string& key) const {
    return values.at(key).text;
  }
  ServerOptions server_options() const;
};

// `file` may be empty. `flags`: those given, by key. All that is wrong with
// the settings is in one message: unknown keys, wrong types, missing ones.
absl::StatusOr<Config> LoadConfig(
    const std::string& file, const std::map<std::string, std::string>& flags);

}  // namespace motet::registry
