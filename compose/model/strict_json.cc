// SPDX-License-Identifier: Apache-2.0
#include "compose/model/strict_json.h"

#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;

// Reads the events alone: which keys, how deep, is it JSON at all. The
// document is built by a second pass, when nothing can be wrong any more.
class Checker : public nlohmann::json_sax<json> {
 public:
  std::string got, want;

  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return Deeper();
  }
  bool start_array(std::size_t) override {
    keys_.emplace_back();
    return Deeper();
  }
  bool end_object() override {
    keys_.pop_back();
    return true;
  }
  bool end_array() override {
    keys_.pop_back();
    return true;
  }
  bool key(string_t& key) override {
    if (keys_.back().insert(key).second) return true;
    got = absl::StrCat("key \"", absl::CHexEscape(key.substr(0, 100)),
                       "\" twice in one object");
    want = "every key once";
    return false;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    got = absl::StrCat("malformed JSON at byte ", position);
    want = "one JSON document";
    return false;
  }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }

 private:
  bool Deeper() {
    if (keys_.size() <= kMaxDepth) return true;
    got = absl::StrCat("JSON nested deeper than ", kMaxDepth);
    want = absl::StrCat("at most ", kMaxDepth, " levels");
    return false;
  }
  std::vector<absl::flat_hash_set<std::string>> keys_;
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(absl::string_view text,
                                     absl::string_view where) {
  Checker checker;
  if (!json::sax_parse(text.begin(), text.end(), &checker)) {
    return proto::Invalid(where, checker.got, checker.want);
  }
  return json::parse(text.begin(), text.end(), nullptr,
                     /*allow_exceptions=*/false);
}

}  // namespace motet::model
