// SPDX-License-Identifier: Apache-2.0
// How configs of strangers are read: the text bounded, no key twice, every
// field taken by name, what is wrong collected, and what nobody took refused,
// since it would be guessed about.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace motet::model {

using ConfigJson = nlohmann::ordered_json;

// A value in a message; long ones are cut.
std::string ShowConfigValue(const ConfigJson& value);

// Makes the error of one kind of file out of what was got.
using ConfigRefusal = absl::Status(const std::string& got);

// The object that the text is: bounded, no deeper than 16, no key twice.
absl::StatusOr<ConfigJson> ParseConfigObject(const std::string& text,
                                             ConfigRefusal* refusal);

// Takes fields out of an object, remembers which, and collects what is wrong.
// The object must outlive it.
class ConfigFields {
 public:
  explicit ConfigFields(const ConfigJson& object) : object_(object) {}

  const ConfigJson* Take(const std::string& key);  // null when absent
  void Refuse(const std::string& key, const ConfigJson* value,
              const std::string& want);
  int64_t Size(const std::string& key, const int64_t* fallback = nullptr);
  double Real(const std::string& key);
  bool Flag(const std::string& key);  // absent: false, as in transformers
  // null, a number, or a list of one number; -1 is none.
  int32_t Id(const std::string& key, int64_t vocabulary);
  // Absent, null or this value (JSON).
  void Only(const std::string& key, const char* want);
  // What nobody took and is not null.
  void RefuseRest();
  const std::vector<std::string>& reasons() const { return reasons_; }
  void Append(const std::vector<std::string>& reasons) {
    reasons_.insert(reasons_.end(), reasons.begin(), reasons.end());
  }

 private:
  const ConfigJson& object_;
  std::set<std::string> taken_;
  std::vector<std::string> reasons_;
};

}  // namespace motet::model
