// SPDX-License-Identifier: Apache-2.0
#include "compose/model/tokenizer_json.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "compose/model/tokenizer_part.h"
#include "proto/error.h"
#include "proto/limits.h"

namespace motet::model {
namespace {

using nlohmann::json;
using proto::Invalid;

constexpr size_t kMaxAddedBytes = 4096;
constexpr size_t kMaxHoles = 1 << 16;

std::string Where(absl::string_view part) {
  return absl::StrCat("tokenizer.json ", part);
}

absl::Status ReadAdded(const json& list, const TokenizerIds& ids,
                       TokenizerParts& parts) {
  if (!list.is_array()) {
    return Invalid(Where("added_tokens"), "no array", "an array");
  }
  absl::flat_hash_map<std::string, int32_t> seen;
  for (const json& item : list) {
    const auto content = item.is_object() ? item.find("content") : item.end();
    if (!item.is_object() || content == item.end() || !content->is_string() ||
        !item.contains("id")) {
      return Invalid(Where("added_tokens"), "an entry without id or content",
                     "both");
    }
    AddedToken token;
    token.content = content->get<std::string>();
    if (token.content.empty() || token.content.size() > kMaxAddedBytes) {
      return Invalid(Where("added_tokens"),
                     absl::StrCat("a token of ", token.content.size(),
                                  " bytes"),
                     absl::StrCat("1 to ", kMaxAddedBytes));
    }
    MOTET_ASSIGN_OR_RETURN(token.id, TokenId(item["id"], "added_tokens"));
    const std::pair<const char*, bool*> flags[] = {
        {"special", &token.special},   {"normalized", &token.normalized},
        {"lstrip", &token.lstrip},     {"rstrip", &token.rstrip},
        {"single_word", &token.single_word}};
    for (const auto& [key, flag] : flags) {
      const auto it = item.find(key);
      if (it == item.end()) continue;
      if (!it->is_boolean()) {
        return Invalid(Where("added_tokens"),
                       absl::StrCat(key, " of ", ShownPart(token.content),
                                    " that is no truth value"),
                       "true or false");
      }
      *flag = it->get<bool>();
    }
    MOTET_RETURN_IF_ERROR(
        CheckPartKeys(item, Where("added_tokens"),
                      {"id", "content", "special", "normalized", "lstrip",
                       "rstrip", "single_word"}));
    if (!seen.emplace(token.content, token.id).second) {
      return Invalid(Where("added_tokens"),
                     absl::StrCat(ShownPart(token.content), " twice"),
                     "every token once");
    }
    const auto known = ids.find(token.content);
    if (known == ids.end()) {
      if (static_cast<size_t>(token.id) >=
          2 * (parts.tokens.size() + list.size()) + kMaxHoles) {
        return Invalid(Where("added_tokens"),
                       absl::StrCat("id ", token.id, " of ",
                                    ShownPart(token.content)),
                       "ids with few holes between");
      }
      MOTET_RETURN_IF_ERROR(
          SetToken(parts, token.id, token.content, "added_tokens"));
    } else if (known->second != token.id) {
      return Invalid(Where("added_tokens"),
                     absl::StrCat(ShownPart(token.content), " with id ",
                                  token.id),
                     absl::StrCat(known->second, ", as in model.vocab"));
    } else {
      parts.tokens[token.id] = token.content;
      token.in_model = true;
    }
    parts.added.push_back(std::move(token));
  }
  return absl::OkStatus();
}

// Bytes come back as they are; WordPiece joins its pieces.
absl::Status ReadDecoder(const json& part, TokenizerParts& parts) {
  const std::string where = Where("decoder");
  MOTET_ASSIGN_OR_RETURN(const std::string type, PartType(part, where));
  if (!parts.is_wordpiece) {
    if (type == "ByteLevel") return absl::OkStatus();
    return Invalid(where, ShownPart(type), "ByteLevel",
                   "use a byte-level BPE tokenizer");
  }
  if (type != "WordPiece") {
    return Invalid(where, ShownPart(type), "WordPiece");
  }
  MOTET_RETURN_IF_ERROR(
      CheckPartKeys(part, where, {"type", "prefix", "cleanup"}));
  const auto prefix = part.find("prefix");
  if (prefix != part.end()) {
    if (!prefix->is_string()) {
      return Invalid(where, "a prefix that is no text", "text");
    }
    parts.wordpiece.decoder_prefix = prefix->get<std::string>();
  }
  MOTET_ASSIGN_OR_RETURN(parts.wordpiece.cleanup,
                         PartFlag(part, where, "cleanup", true));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerParts> ParseTokenizerJson(const std::string& text) {
  if (text.size() > static_cast<size_t>(proto::kMaxTokenizerBytes)) {
    return Invalid("tokenizer.json", absl::StrCat(text.size(), " bytes"),
                   absl::StrCat("at most ", proto::kMaxTokenizerBytes));
  }
  TokenizerTables tables;
  MOTET_ASSIGN_OR_RETURN(const json root, TakeTokenizerTables(text, tables));
  if (!root.is_object()) {
    return Invalid("tokenizer.json", "no object", "an object");
  }
  MOTET_RETURN_IF_ERROR(CheckPartKeys(
      root, "tokenizer.json document",
      {"version", "truncation", "padding", "added_tokens", "normalizer",
       "pre_tokenizer", "post_processor", "decoder", "model"}));
  const json none;
  const auto part = [&](const char* key) -> const json& {
    const auto it = root.find(key);
    return it == root.end() ? none : *it;
  };
  // How long texts become is the caller's business, as it is that of
  // `transformers`.
  for (const char* key : {"truncation", "padding"}) {
    if (!part(key).is_null() && !part(key).is_object()) {
      return Invalid(Where(key), "neither null nor an object", "one of them");
    }
  }
  TokenizerParts parts;
  MOTET_ASSIGN_OR_RETURN(parts.normalizer,
                         Normalizer::Parse(part("normalizer")));
  MOTET_ASSIGN_OR_RETURN(parts.pretokenizer,
                         Pretokenizer::Parse(part("pre_tokenizer")));
  TokenizerIds ids;
  MOTET_RETURN_IF_ERROR(ReadTokenizerModel(part("model"), tables, parts, ids));
  if (parts.pretokenizer->byte_level() == parts.is_wordpiece) {
    return Invalid(Where("pre_tokenizer"), "words of the wrong kind",
                   "ByteLevel for BPE, BertPreTokenizer for WordPiece",
                   "use another tokenizer");
  }
  MOTET_RETURN_IF_ERROR(ReadDecoder(part("decoder"), parts));
  if (!part("added_tokens").is_null()) {
    MOTET_RETURN_IF_ERROR(ReadAdded(part("added_tokens"), ids, parts));
  }
  MOTET_ASSIGN_OR_RETURN(
      parts.around,
      ParsePostProcessor(part("post_processor"),
                         static_cast<int64_t>(parts.tokens.size())));
  return parts;
}

}  // namespace motet::model
