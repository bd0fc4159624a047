// SPDX-License-Identifier: Apache-2.0
#include "compose/model/tokenizer_template.h"

#include "absl/strings/str_cat.h"
#include "compose/model/tokenizer_part.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using nlohmann::json;
using proto::Invalid;

constexpr absl::string_view kWhere = "tokenizer.json post_processor";
constexpr int kMaxDepth = 8;
constexpr size_t kMaxAdded = 64;  // tokens beside one text

class Reader {
 public:
  explicit Reader(int64_t vocabulary) : vocabulary_(vocabulary) {}

  absl::Status Add(const json& part, int depth) {
    MOTET_ASSIGN_OR_RETURN(const std::string type, PartType(part, kWhere));
    if (type == "ByteLevel") return absl::OkStatus();
    if (type == "Sequence") {
      const auto list = part.find("processors");
      if (list == part.end() || !list->is_array() || depth >= kMaxDepth) {
        return Invalid(kWhere, "a Sequence without parts, or nested too deep",
                       "parts in it");
      }
      for (const json& item : *list) {
        MOTET_RETURN_IF_ERROR(Add(item, depth + 1));
      }
      return absl::OkStatus();
    }
    if (type == "TemplateProcessing") return Template(part);
    if (type == "BertProcessing" || type == "RobertaProcessing") {
      return Pair(part);
    }
    return Invalid(kWhere, ShownPart(type),
                   "ByteLevel, TemplateProcessing, BertProcessing, "
                   "RobertaProcessing or a Sequence of these",
                   "use another tokenizer");
  }
  TokensAround&& Take() { return std::move(around_); }

 private:
  absl::StatusOr<int32_t> Id(const json& value) const {
    if (!value.is_number_unsigned() ||
        value.get<uint64_t>() >= static_cast<uint64_t>(vocabulary_)) {
      return Invalid(kWhere, "an id that the vocabulary lacks",
                     absl::StrCat("0 to ", vocabulary_ - 1));
    }
    return static_cast<int32_t>(value.get<uint64_t>());
  }

  // What comes later stands outside what is there.
  absl::Status Around(const std::vector<int32_t>& before,
                      const std::vector<int32_t>& after) {
    around_.before.insert(around_.before.begin(), before.begin(),
                          before.end());
    around_.after.insert(around_.after.end(), after.begin(), after.end());
    if (around_.before.size() + around_.after.size() > kMaxAdded) {
      return Invalid(kWhere, "too many tokens beside a text",
                     absl::StrCat("at most ", kMaxAdded));
    }
    return absl::OkStatus();
  }

  absl::Status Template(const json& part) {
    MOTET_RETURN_IF_ERROR(CheckPartKeys(
        part, kWhere, {"type", "single", "pair", "special_tokens"}));
    const auto single = part.find("single");
    if (single == part.end() || !single->is_array()) {
      return Invalid(kWhere, "a TemplateProcessing without \"single\"",
                     "a list");
    }
    bool text_seen = false;
    std::vector<int32_t> before, after;
    for (const json& piece : *single) {
      if (!piece.is_object() || piece.size() != 1) {
        return Invalid(kWhere, "a piece that is no object of one key",
                       "a Sequence or a SpecialToken");
      }
      const std::string& kind = piece.begin().key();
      const json& value = *piece.begin();
      const auto id = value.is_object() ? value.find("id") : value.end();
      if (!value.is_object() || id == value.end() || !id->is_string()) {
        return Invalid(kWhere, absl::StrCat(ShownPart(kind), " without id"),
                       "a Sequence or a SpecialToken with an id");
      }
      if (kind == "Sequence" && *id == "A" && !text_seen) {
        text_seen = true;
      } else if (kind == "SpecialToken") {
        MOTET_RETURN_IF_ERROR(Special(part, id->get<std::string>(),
                                      text_seen ? after : before));
      } else {
        return Invalid(kWhere,
                       absl::StrCat(ShownPart(kind), " in \"single\""),
                       "SpecialToken, and the Sequence A once");
      }
    }
    if (!text_seen) {
      return Invalid(kWhere, "a template without its text",
                     "the Sequence A in \"single\"");
    }
    return Around(before, after);
  }

  absl::Status Special(const json& part, const std::string& name,
                       std::vector<int32_t>& to) const {
    const auto all = part.find("special_tokens");
    const json none;
    const json& token = all != part.end() && all->is_object() &&
                                all->contains(name)
                            ? (*all)[name]
                            : none;
    const auto ids = token.is_object() ? token.find("ids") : token.end();
    if (!token.is_object() || ids == token.end() || !ids->is_array() ||
        ids->size() > kMaxAdded) {
      return Invalid(kWhere, absl::StrCat(ShownPart(name), " without ids"),
                     "them in special_tokens");
    }
    for (const json& value : *ids) {
      MOTET_ASSIGN_OR_RETURN(const int32_t id, Id(value));
      to.push_back(id);
    }
    return absl::OkStatus();
  }

  // {"sep": ["[SEP]", 102], "cls": ["[CLS]", 101]}.
  absl::Status Pair(const json& part) {
    MOTET_RETURN_IF_ERROR(CheckPartKeys(
        part, kWhere,
        {"type", "sep", "cls", "trim_offsets", "add_prefix_space"}));
    std::vector<int32_t> ids;
    for (const char* key : {"cls", "sep"}) {
      const auto it = part.find(key);
      if (it == part.end() || !it->is_array() || it->size() != 2) {
        return Invalid(kWhere, absl::StrCat("no ", key),
                       "a token with its id");
      }
      MOTET_ASSIGN_OR_RETURN(const int32_t id, Id((*it)[1]));
      ids.push_back(id);
    }
    return Around({ids[0]}, {ids[1]});
  }

  const int64_t vocabulary_;
  TokensAround around_;
};

}  // namespace

absl::StatusOr<TokensAround> ParsePostProcessor(const json& part,
                                                int64_t vocabulary) {
  Reader reader(vocabulary);
  if (!part.is_null()) MOTET_RETURN_IF_ERROR(reader.Add(part, 0));
  return reader.Take();
}

}  // namespace motet::model
