// SPDX-License-Identifier: Apache-2.0
#include "node/toml_table.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"
#include <toml++/toml.h>

namespace motet::node {
namespace {

std::string_view Std(absl::string_view text) {
  return {text.data(), text.size()};
}

}  // namespace

struct TomlTable::Data {
  std::string where;
  toml::table table;
  std::set<std::string> known;
  std::vector<std::string> problems;

  // The node at key, noted as known; null when absent.
  const toml::node* At(absl::string_view key) {
    known.insert(std::string(key));
    return table.at_path(Std(key)).node();
  }
  void WrongType(absl::string_view key, const toml::node& node,
                 absl::string_view want) {
    problems.push_back(absl::StrCat("line ", node.source().begin.line, ": ",
                                    key, " is not ", want));
  }
  void FindUnknown(const toml::table& in, const std::string& prefix) {
    for (const auto& [key, node] : in) {
      const std::string name = prefix + std::string(key.str());
      bool section = false;
      for (const std::string& k : known) {
        section |= k.starts_with(name + ".");
      }
      if (section && node.is_table()) {
        FindUnknown(*node.as_table(), name + ".");
      } else if (!known.contains(name)) {
        problems.push_back(absl::StrCat("line ", key.source().begin.line,
                                        ": unknown key ", name));
      }
    }
  }
};

TomlTable::TomlTable(std::unique_ptr<Data> data) : data_(std::move(data)) {}
TomlTable::TomlTable(TomlTable&&) noexcept = default;
TomlTable::~TomlTable() = default;

absl::StatusOr<TomlTable> TomlTable::Parse(const std::string& text,
                                           const std::string& where) {
  auto data = std::make_unique<Data>();
  data->where = where;
  try {
    data->table = toml::parse(text, where);
  } catch (const toml::parse_error& e) {
    return proto::Invalid(
        where,
        absl::StrCat("line ", e.source().begin.line, ": ",
                     std::string(e.description())),
        "TOML", "correct that line");
  }
  return TomlTable(std::move(data));
}

bool TomlTable::Read(absl::string_view key, std::string* out) {
  const toml::node* node = data_->At(key);
  if (node == nullptr) return false;
  if (const auto* value = node->as_string()) {
    *out = value->get();
  } else {
    data_->WrongType(key, *node, "a string");
  }
  return true;
}

bool TomlTable::Read(absl::string_view key, std::vector<std::string>* out) {
  const toml::node* node = data_->At(key);
  if (node == nullptr) return false;
  const toml::array* array = node->as_array();
  bool good = array != nullptr;
  std::vector<std::string> values;
  if (good) {
    for (const toml::node& item : *array) {
      good &= item.is_string();
      if (item.is_string()) values.push_back(item.as_string()->get());
    }
  }
  if (good) {
    *out = std::move(values);
  } else {
    data_->WrongType(key, *node, "an array of strings");
  }
  return true;
}

bool TomlTable::Read(absl::string_view key, int64_t* out) {
  const toml::node* node = data_->At(key);
  if (node == nullptr) return false;
  if (const auto* value = node->as_integer()) {
    *out = value->get();
  } else {
    data_->WrongType(key, *node, "an integer");
  }
  return true;
}

bool TomlTable::Read(absl::string_view key, double* out) {
  const toml::node* node = data_->At(key);
  if (node == nullptr) return false;
  if (node->is_number()) {
    *out = *node->value<double>();
  } else {
    data_->WrongType(key, *node, "a number");
  }
  return true;
}

void TomlTable::Problem(absl::string_view key, absl::string_view got,
                        absl::string_view want) {
  data_->problems.push_back(
      absl::StrCat(key, " is ", got, ", want ", want));
}

absl::Status TomlTable::Finish() {
  const size_t before = data_->problems.size();
  data_->FindUnknown(data_->table, "");
  if (data_->problems.empty()) return absl::OkStatus();
  const bool unknown = data_->problems.size() > before;
  return proto::Invalid(
      data_->where, absl::StrJoin(data_->problems, "; "),
      "known keys with values that fit",
      unknown ? absl::StrCat("the keys are ",
                             absl::StrJoin(data_->known, ", "))
              : "correct them");
}

std::string TomlQuote(absl::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      absl::StrAppendFormat(&out, "\\u%04X", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace motet::node
