// SPDX-License-Identifier: Apache-2.0
#include "compose/model/strict_json.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;

// Builds the document from the reader's events, and stops at the first thing
// that is wrong: one pass, as tokenizers have megabytes of keys.
class Builder : public nlohmann::json_sax<json> {
 public:
  std::string got, want;
  json root;

  bool start_object(std::size_t) override { return Open(json::object()); }
  bool start_array(std::size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& key) override {
    auto& object = open_.back()->get_ref<json::object_t&>();
    const auto [member, added] = object.try_emplace(std::move(key));
    value_ = &member->second;
    if (added) return true;
    got = absl::StrCat("key \"",
                       absl::CHexEscape(member->first.substr(0, 100)),
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
  bool null() override { return Put(nullptr); }
  bool boolean(bool value) override { return Put(value); }
  bool number_integer(number_integer_t n) override { return Put(n); }
  bool number_unsigned(number_unsigned_t n) override { return Put(n); }
  bool number_float(number_float_t n, const string_t&) override {
    return Put(n);
  }
  bool string(string_t& value) override { return Put(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // JSON has none

 private:
  // Where the next value goes: the document, the end of an array, or the
  // member whose key was just read.
  json* Place() {
    if (open_.empty()) return &root;
    if (!open_.back()->is_array()) return value_;
    open_.back()->push_back(nullptr);
    return &open_.back()->back();
  }
  template <typename Value>
  bool Put(Value&& value) {
    *Place() = std::forward<Value>(value);
    return true;
  }
  bool Open(json empty) {
    json* place = Place();
    *place = std::move(empty);
    open_.push_back(place);
    if (open_.size() <= kMaxDepth) return true;
    got = absl::StrCat("JSON nested deeper than ", kMaxDepth);
    want = absl::StrCat("at most ", kMaxDepth, " levels");
    return false;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  std::vector<json*> open_;  // the outermost first; each in the one before
  json* value_ = nullptr;
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(absl::string_view text,
                                     absl::string_view where) {
  Builder builder;
  if (!json::sax_parse(text.begin(), text.end(), &builder)) {
    return proto::Invalid(where, builder.got, builder.want);
  }
  return std::move(builder.root);
}

}  // namespace motet::model
