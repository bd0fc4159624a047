// SPDX-License-Identifier: Apache-2.0
#include "registry/config.h"

#include <stdlib.h>
#include <toml++/toml.h>

#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"
#include "registry/record.h"

namespace motet::registry {
namespace {

std::string EnvironmentName(const std::string& key) {
  return absl::StrCat("MOTET_REGISTRY_", absl::AsciiStrToUpper(key));
}

std::string KnownKeys() {
  return absl::StrJoin(Settings(), ", ",
                       [](std::string* out, const Setting& setting) {
                         absl::StrAppend(out, setting.key);
                       });
}

const Setting* FindSetting(const std::string& key) {
  for (const Setting& setting : Settings()) {
    if (key == setting.key) return &setting;
  }
  return nullptr;
}

// toml++ throws; nothing of it leaves this function.
absl::StatusOr<toml::table> Parse(const std::string& file,
                                  const std::string& text) {
  try {
    return toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    return proto::Invalid(
        absl::StrCat(file, ":", error.source().begin.line),
        absl::StrCat("\"", Printable(std::string(error.description())), "\""),
        "TOML", "write lines like address = \"127.0.0.1:7443\"");
  }
}

absl::Status ReadConfigFile(const std::string& file, Config* config,
                            std::vector<std::string>* problems) {
  MOTET_ASSIGN_OR_RETURN(const std::string text,
                         proto::ReadFile(file, proto::kMaxConfigBytes));
  MOTET_ASSIGN_OR_RETURN(const toml::table table, Parse(file, text));
  const std::filesystem::path folder =
      std::filesystem::path(file).parent_path();
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    const Setting* setting = FindSetting(name);
    const auto value = node.value<std::string>();
    if (setting == nullptr) {
      problems->push_back(
          absl::StrCat("unknown key \"", Printable(name), "\""));
    } else if (!node.is_string() || !value.has_value()) {
      problems->push_back(absl::StrCat(name, " that is not a string"));
    } else {
      std::string given = *value;
      if (setting->is_path && !given.empty()) given = (folder / given).string();
      config->values[name] = {given, file};
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string FlagName(const std::string& key) {
  return absl::StrCat("--", absl::StrReplaceAll(key, {{"_", "-"}}));
}

const std::vector<Setting>& Settings() {
  static const auto* const settings = new std::vector<Setting>{
      {"federation", nullptr, false, "name of the federation"},
      {"address", "127.0.0.1:7443", false,
       "host:port to listen on; port 0 takes a free one"},
      {"data", nullptr, true, "folder of the registry's database"},
      {"authority", nullptr, true, "certificate of the federation's authority"},
      {"certificate", nullptr, true, "the registry's own certificate"},
      {"private_key", nullptr, true, "file with the registry's private key"},
  };
  return *settings;
}

ServerOptions Config::server_options() const {
  ServerOptions options;
  options.federation = at("federation");
  options.address = at("address");
  options.tls.authority = at("authority");
  options.tls.certificate = at("certificate");
  options.tls.private_key = at("private_key");
  return options;
}

absl::StatusOr<Config> LoadConfig(
    const std::string& file, const std::map<std::string, std::string>& flags) {
  Config config;
  std::vector<std::string> problems;
  if (!file.empty()) {
    MOTET_RETURN_IF_ERROR(ReadConfigFile(file, &config, &problems));
  }
  for (const Setting& setting : Settings()) {
    Value& value = config.values[setting.key];
    const std::string variable = EnvironmentName(setting.key);
    const auto flag = flags.find(setting.key);
    const char* environment = getenv(variable.c_str());
    if (flag != flags.end()) {
      value = {flag->second, FlagName(setting.key)};
    } else if (environment != nullptr) {
      value = {environment, variable};
    } else if (value.source.empty() && setting.default_value != nullptr) {
      value = {setting.default_value, "default"};
    }
    if (value.text.empty()) {
      problems.push_back(
          absl::StrCat("no ", setting.key, " (", setting.help, ")"));
    }
  }
  if (problems.empty()) return config;
  return proto::Invalid(file.empty() ? "motet-registry" : file,
                        absl::StrJoin(problems, ", "),
                        absl::StrCat("the keys ", KnownKeys()),
                        "set them in the file, as flags or in the environment");
}

}  // namespace motet::registry
