// SPDX-License-Identifier: Apache-2.0
// A TOML file of this box: every key is asked for by name and type, and what
// was not asked for is an error. Problems are gathered, so that one run tells
// all of them. Text enters, values leave; nothing is guessed or converted.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace motet::node {

class TomlTable {
 public:
  // where: the file's path, opens every message.
  static absl::StatusOr<TomlTable> Parse(const std::string& text,
                                         const std::string& where);
  TomlTable(TomlTable&&) noexcept;
  ~TomlTable();

  // key: "name" or "section.name". An absent key leaves *out as it is; one of
  // another type is a problem. Returns whether the key is there.
  bool Read(absl::string_view key, std::string* out);
  bool Read(absl::string_view key, std::vector<std::string>* out);
  bool Read(absl::string_view key, int64_t* out);
  bool Read(absl::string_view key, double* out);  // integers too

  // A problem that the caller found.
  void Problem(absl::string_view key, absl::string_view got,
               absl::string_view want);
  // OK, or every problem and every unknown key (with its line and the keys
  // that exist) in one message. Call it after the last Read.
  absl::Status Finish();

 private:
  struct Data;
  explicit TomlTable(std::unique_ptr<Data> data);
  std::unique_ptr<Data> data_;
};

// A basic TOML string, quoted and escaped.
std::string TomlQuote(absl::string_view text);

}  // namespace motet::node
