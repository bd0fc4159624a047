// SPDX-License-Identifier: Apache-2.0
#include "compose/model/tokenizer_tables.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compose/model/json_cursor.h"
#include "compose/model/strict_json.h"
#include "compose/model/tokenizer_part.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using nlohmann::json;
using proto::Invalid;

constexpr uint32_t kMaxId = 1 << 22;
constexpr absl::string_view kDocument = "tokenizer.json";

// Reads until it has both tables, or finds that something is wrong with the
// text: then its functions return false, and who knows JSON better says what.
class Reader {
 public:
  Reader(absl::string_view text, TokenizerTables& tables)
      : text_(text), in_(text), tables_(tables) {}

  bool Document() {
    if (absl::StartsWith(text_, "\xEF\xBB\xBF")) in_.Return(3);
    if (in_.Peek() != '{') return true;  // not ours to judge
    return Members([&](absl::string_view key) {
      if (key != "model" || in_.Peek() != '{') return in_.Skip();
      return Members([&](absl::string_view part) { return Part(part); });
    });
  }
  // The text with null for each table.
  std::string Rest() && {
    absl::StrAppend(&rest_, text_.substr(copied_));
    return std::move(rest_);
  }

 private:
  template <typename Value>
  bool Members(const Value& value) {
    if (!in_.Take('{')) return false;
    if (in_.Take('}')) return true;
    absl::string_view key;
    do {
      if (!in_.String(tables_.unescaped, key) || !in_.Take(':') ||
          !value(key)) {
        return false;
      }
    } while (in_.Take(','));
    return in_.Take('}');
  }

  bool Part(absl::string_view key) {
    const bool vocabulary = key == "vocab" && in_.Peek() == '{';
    const bool merges = key == "merges" && in_.Peek() == '[';
    if (!vocabulary && !merges) return in_.Skip();
    const size_t begin = in_.at();
    absl::Status& status =
        vocabulary ? tables_.vocabulary_status : tables_.merges_status;
    const bool read = vocabulary ? Vocabulary(status) : Merges(status);
    if (!status.ok()) {
      vocabulary ? tables_.vocabulary.clear() : tables_.merges.clear();
      // Something else than a table of ours. Is it JSON?
      in_.Return(begin);
      if (!in_.Skip() ||
          !ParseStrictJson(text_.substr(begin, in_.at() - begin), kDocument)
               .ok()) {
        return false;
      }
    } else if (!read) {
      return false;
    }
    absl::StrAppend(&rest_, text_.substr(copied_, begin - copied_), "null");
    copied_ = in_.at();
    return true;
  }

  bool Vocabulary(absl::Status& status) {
    tables_.vocabulary.clear();
    Reserve(tables_.vocabulary);
    return Members([&](absl::string_view token) {
      uint32_t id = 0;
      if (!in_.Whole(id) || id >= kMaxId) {
        status = Invalid("tokenizer.json model.vocab",
                         "an id that is no number below 2^22",
                         "whole numbers from 0");
        return false;
      }
      tables_.vocabulary.emplace_back(token, static_cast<int32_t>(id));
      return true;
    });
  }

  // No more than the text may hold of usual entries; costs no memory where
  // it holds fewer.
  template <typename Table>
  void Reserve(Table& table) {
    table.reserve((text_.size() - in_.at()) / 16);
  }

  bool Merges(absl::Status& status) {
    tables_.merges.clear();
    Reserve(tables_.merges);
    tables_.has_merges = true;
    if (!in_.Take('[')) return false;
    if (in_.Take(']')) return true;
    do {
      std::pair<absl::string_view, absl::string_view> merge;
      if (in_.Peek() == '[' ? !Pair(merge) : !Text(merge, status)) {
        if (status.ok()) {
          status = Invalid(Where(), "neither text nor a pair of texts",
                           "two tokens");
        }
        return false;
      }
      tables_.merges.push_back(merge);
    } while (in_.Take(','));
    return in_.Take(']');
  }
  // ["left", "right"]
  bool Pair(std::pair<absl::string_view, absl::string_view>& merge) {
    return in_.Take('[') && in_.String(tables_.unescaped, merge.first) &&
           in_.Take(',') && in_.String(tables_.unescaped, merge.second) &&
           in_.Take(']');
  }
  // "left right"
  bool Text(std::pair<absl::string_view, absl::string_view>& merge,
            absl::Status& status) {
    absl::string_view text;
    if (!in_.String(tables_.unescaped, text)) return false;
    const size_t space = text.find(' ');
    if (space == absl::string_view::npos ||
        text.find(' ', space + 1) != absl::string_view::npos) {
      status = Invalid(Where(), ShownPart(text),
                       "two tokens with a space between");
      return false;
    }
    merge = {text.substr(0, space), text.substr(space + 1)};
    return true;
  }
  std::string Where() const {
    return absl::StrCat("tokenizer.json model.merges ",
                        tables_.merges.size());
  }

  absl::string_view text_;
  JsonCursor in_;
  TokenizerTables& tables_;
  std::string rest_;
  size_t copied_ = 0;  // of the text: into rest_, or a table
};

}  // namespace

absl::StatusOr<json> TakeTokenizerTables(absl::string_view text,
                                         TokenizerTables& tables) {
  Reader reader(text, tables);
  if (reader.Document()) {
    absl::StatusOr<json> rest =
        ParseStrictJson(std::move(reader).Rest(), kDocument);
    if (rest.ok()) return rest;
  }
  // Again and slowly, so that places are those of the whole text.
  MOTET_RETURN_IF_ERROR(ParseStrictJson(text, kDocument).status());
  return Invalid(kDocument, "malformed JSON", "one JSON document");
}

}  // namespace motet::model
