// SPDX-License-Identifier: Apache-2.0
// The "model" of a tokenizer.json: BPE or WordPiece, its vocabulary and its
// merges.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/model/tokenizer_json.h"
#include "compose/model/tokenizer_part.h"
#include "compose/model/unicode.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using nlohmann::json;
using proto::Invalid;

// Ids are indices of tables: bounded before anything is allocated, and not
// far beyond the number of tokens.
constexpr int64_t kMaxId = 1 << 22;
constexpr size_t kMaxHoles = 1 << 16;

using Ids = TokenizerIds;

std::string Where(absl::string_view part) {
  return absl::StrCat("tokenizer.json ", part);
}

// Tokens of BPE spell bytes, those of WordPiece are text.
absl::Status ReadVocabulary(const TokenizerTables& tables, bool spelled,
                            TokenizerParts& parts, Ids& ids) {
  MOTET_RETURN_IF_ERROR(tables.vocabulary_status);
  const size_t size = tables.vocabulary.size();
  if (size == 0) {
    return Invalid(Where("model.vocab"), "none", "tokens with their ids");
  }
  ids.reserve(size);
  parts.tokens.reserve(size);
  for (const auto& [token, id] : tables.vocabulary) {
    if (!ids.emplace(token, id).second) {
      return Invalid("tokenizer.json",
                     absl::StrCat("key ", ShownPart(token),
                                  " twice in one object"),
                     "every key once");
    }
    if (static_cast<size_t>(id) >= 2 * size + kMaxHoles) {
      return Invalid(Where("model.vocab"),
                     absl::StrCat("id ", id, " for ", size, " tokens"),
                     "ids with few holes between");
    }
    if (token.empty()) {
      return Invalid(Where("model.vocab"), "an empty token", "text");
    }
    MOTET_RETURN_IF_ERROR(
        SetToken(parts, id, spelled ? UnspellBytes(token) : std::string(token),
                 "model.vocab"));
  }
  if (!spelled) return absl::OkStatus();
  parts.byte_ids.assign(256, -1);
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    const auto it = ids.find(SpellBytes(absl::string_view(&byte, 1)));
    if (it != ids.end()) parts.byte_ids[b] = it->second;
  }
  return absl::OkStatus();
}

absl::Status ReadMerges(const TokenizerTables& tables, const Ids& ids,
                        TokenizerParts& parts) {
  MOTET_RETURN_IF_ERROR(tables.merges_status);
  if (!tables.has_merges) {
    return Invalid(Where("model.merges"), "none", "an array of pairs");
  }
  parts.merges.reserve(tables.merges.size());
  // Results mostly stand in the vocabulary one after another, in the order of
  // the merges: looking there first spares most searches.
  std::string joined;
  size_t guess = tables.vocabulary.size();
  for (const auto& [left, right] : tables.merges) {
    joined.assign(left.data(), left.size());
    joined.append(right.data(), right.size());
    const auto l = ids.find(left), r = ids.find(right);
    int32_t both = -1;
    if (guess < tables.vocabulary.size() &&
        tables.vocabulary[guess].first == joined) {
      both = tables.vocabulary[guess].second;
    } else if (const auto it = ids.find(joined); it != ids.end()) {
      both = it->second;
      guess = static_cast<size_t>(both);
    }
    ++guess;
    if (l == ids.end() || r == ids.end() || both < 0) {
      return Invalid(
          Where(absl::StrCat("model.merges ", parts.merges.size())),
          absl::StrCat(ShownPart(left), " and ", ShownPart(right)),
          "both and their result in the vocabulary");
    }
    parts.merges.push_back({l->second, r->second, both});
  }
  return absl::OkStatus();
}

absl::Status ReadBpe(const json& model, const TokenizerTables& tables,
                     TokenizerParts& parts, Ids& ids) {
  MOTET_RETURN_IF_ERROR(CheckPartKeys(
      model, Where("model"),
      {"type", "dropout", "unk_token", "continuing_subword_prefix",
       "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges",
       "vocab", "merges"}));
  const auto empty = [&](const char* key) {
    const auto it = model.find(key);
    return it == model.end() || it->is_null() || *it == "" || *it == false ||
           *it == 0.0;
  };
  for (const char* key : {"dropout", "continuing_subword_prefix",
                          "end_of_word_suffix", "byte_fallback"}) {
    if (!empty(key)) {
      return Invalid(Where(absl::StrCat("model.", key)), "a value", "none",
                     "use a byte-level BPE tokenizer without it");
    }
  }
  MOTET_RETURN_IF_ERROR(ReadVocabulary(tables, /*spelled=*/true, parts, ids));
  MOTET_RETURN_IF_ERROR(ReadMerges(tables, ids, parts));
  parts.ignore_merges = !empty("ignore_merges");
  if (!empty("unk_token")) {
    const json& token = model["unk_token"];
    const auto it =
        token.is_string() ? ids.find(token.get<std::string>()) : ids.end();
    if (it == ids.end()) {
      return Invalid(Where("model.unk_token"), "no token of the vocabulary",
                     "one of them, or null");
    }
    parts.unknown = it->second;
    for (const int32_t id : parts.byte_ids) {
      if (id < 0 && !empty("fuse_unk")) {
        return Invalid(Where("model.fuse_unk"),
                       "a vocabulary that lacks bytes", "all 256");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ReadWordPiece(const json& model, const TokenizerTables& tables,
                           TokenizerParts& parts, Ids& ids) {
  const std::string where = Where("model");
  MOTET_RETURN_IF_ERROR(
      CheckPartKeys(model, where,
                    {"type", "unk_token", "continuing_subword_prefix",
                     "max_input_chars_per_word", "vocab"}));
  MOTET_RETURN_IF_ERROR(
      ReadVocabulary(tables, /*spelled=*/false, parts, ids));
  WordPieceParts& to = parts.wordpiece;
  const auto text = [&](const char* key, const std::string& absent,
                        std::string& value) {
    const auto it = model.find(key);
    if (it != model.end() && !it->is_string()) return false;
    value = it == model.end() ? absent : it->get<std::string>();
    return true;
  };
  std::string unknown;
  if (!text("unk_token", "[UNK]", unknown) || !ids.contains(unknown)) {
    return Invalid(Where("model.unk_token"), "no token of the vocabulary",
                   "one of them");
  }
  to.unknown = ids.at(unknown);
  if (!text("continuing_subword_prefix", "##", to.prefix)) {
    return Invalid(Where("model.continuing_subword_prefix"), "no text",
                   "text");
  }
  const auto longest = model.find("max_input_chars_per_word");
  if (longest != model.end()) {
    if (!longest->is_number_unsigned()) {
      return Invalid(Where("model.max_input_chars_per_word"), "no number",
                     "a whole number from 0");
    }
    to.longest_word = static_cast<int64_t>(
        std::min<uint64_t>(longest->get<uint64_t>(), 1 << 20));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int32_t> TokenId(const json& value, absl::string_view part) {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() >= static_cast<uint64_t>(kMaxId)) {
    return Invalid(Where(part), "an id that is no number below 2^22",
                   "whole numbers from 0");
  }
  return static_cast<int32_t>(value.get<uint64_t>());
}

absl::Status SetToken(TokenizerParts& parts, int32_t id, std::string bytes,
                      absl::string_view part) {
  if (id >= static_cast<int32_t>(parts.tokens.size())) {
    parts.tokens.resize(id + 1);
  }
  if (!parts.tokens[id].empty()) {
    return Invalid(Where(part),
                   absl::StrCat("id ", id, " for ", ShownPart(bytes), " and ",
                                ShownPart(parts.tokens[id])),
                   "every id once");
  }
  parts.tokens[id] = std::move(bytes);
  return absl::OkStatus();
}

absl::Status ReadTokenizerModel(const json& model,
                                const TokenizerTables& tables,
                                TokenizerParts& parts, Ids& ids) {
  if (model.is_object() && !model.contains("type")) {
    return ReadBpe(model, tables, parts, ids);  // as old files have it
  }
  MOTET_ASSIGN_OR_RETURN(const std::string type,
                         PartType(model, Where("model")));
  parts.is_wordpiece = type == "WordPiece";
  if (parts.is_wordpiece) {
    return ReadWordPiece(model, tables, parts, ids);
  }
  if (type == "BPE") return ReadBpe(model, tables, parts, ids);
  return Invalid(Where("model"), ShownPart(type), "BPE or WordPiece",
                 "use a byte-level BPE or a WordPiece tokenizer");
}

}  // namespace motet::model
