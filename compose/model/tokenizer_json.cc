// SPDX-License-Identifier: Apache-2.0
#include "compose/model/tokenizer_json.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "compose/model/strict_json.h"
#include "compose/model/unicode.h"
#include "proto/error.h"
#include "proto/limits.h"

namespace motet::model {
namespace {

using nlohmann::json;
using proto::Invalid;

// Ids are indices of tables: bounded before anything is allocated.
constexpr int64_t kMaxId = 1 << 22;
constexpr size_t kMaxAddedBytes = 4096;

using Ids = absl::flat_hash_map<std::string, int32_t>;

std::string Where(absl::string_view part) {
  return absl::StrCat("tokenizer.json ", part);
}

std::string Shown(absl::string_view text) {
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 80)), "\"");
}

std::string Type(const json& part) {
  if (!part.is_object()) return "";
  const auto type = part.find("type");
  return type != part.end() && type->is_string() ? type->get<std::string>()
                                                 : "";
}

absl::Status KnownKeys(const json& part, absl::string_view name,
                       std::initializer_list<absl::string_view> known) {
  for (const auto& [key, value] : part.items()) {
    bool found = false;
    for (absl::string_view k : known) found |= k == key;
    if (!found) {
      return Invalid(Where(name), absl::StrCat("key ", Shown(key)),
                     "keys that we know", "use another tokenizer");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> Id(const json& value, absl::string_view part) {
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
                   absl::StrCat("id ", id, " for ", Shown(bytes), " and ",
                                Shown(parts.tokens[id])),
                   "every id once");
  }
  parts.tokens[id] = std::move(bytes);
  return absl::OkStatus();
}

absl::Status ReadVocabulary(const json& model, TokenizerParts& parts,
                            Ids& ids) {
  const auto vocab = model.find("vocab");
  if (vocab == model.end() || !vocab->is_object() || vocab->empty()) {
    return Invalid(Where("model.vocab"), "none", "tokens with their ids");
  }
  ids.reserve(vocab->size());
  for (const auto& [token, value] : vocab->items()) {
    MOTET_ASSIGN_OR_RETURN(const int32_t id, Id(value, "model.vocab"));
    if (token.empty()) {
      return Invalid(Where("model.vocab"), "an empty token", "text");
    }
    MOTET_RETURN_IF_ERROR(
        SetToken(parts, id, UnspellBytes(token), "model.vocab"));
    ids.emplace(token, id);
  }
  parts.byte_ids.assign(256, -1);
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    const auto it = ids.find(SpellBytes(absl::string_view(&byte, 1)));
    if (it != ids.end()) parts.byte_ids[b] = it->second;
  }
  return absl::OkStatus();
}

absl::Status ReadMerges(const json& model, const Ids& ids,
                        TokenizerParts& parts) {
  const auto merges = model.find("merges");
  if (merges == model.end() || !merges->is_array()) {
    return Invalid(Where("model.merges"), "none", "an array of pairs");
  }
  parts.merges.reserve(merges->size());
  std::string left, right;
  for (size_t i = 0; i < merges->size(); ++i) {
    const json& merge = (*merges)[i];
    const std::string where = absl::StrCat("model.merges ", i);
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
        merge[1].is_string()) {
      left = merge[0].get_ref<const std::string&>();
      right = merge[1].get_ref<const std::string&>();
    } else if (merge.is_string()) {
      const std::string& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == std::string::npos ||
          text.find(' ', space + 1) != std::string::npos) {
        return Invalid(Where(where), Shown(text),
                       "two tokens with a space between");
      }
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else {
      return Invalid(Where(where), "neither text nor a pair of texts",
                     "two tokens");
    }
    const auto l = ids.find(left), r = ids.find(right),
               both = ids.find(left + right);
    if (l == ids.end() || r == ids.end() || both == ids.end()) {
      return Invalid(Where(where),
                     absl::StrCat(Shown(left), " and ", Shown(right)),
                     "both and their result in the vocabulary");
    }
    parts.merges.push_back({l->second, r->second, both->second});
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const json& model, TokenizerParts& parts, Ids& ids) {
  const std::string type = Type(model);
  if (!model.is_object() || (type != "BPE" && model.contains("type"))) {
    return Invalid(Where("model"), type.empty() ? "no type" : Shown(type),
                   "BPE", "use a byte-level BPE tokenizer");
  }
  MOTET_RETURN_IF_ERROR(KnownKeys(
      model, "model",
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
  MOTET_RETURN_IF_ERROR(ReadVocabulary(model, parts, ids));
  MOTET_RETURN_IF_ERROR(ReadMerges(model, ids, parts));
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

absl::Status ReadAdded(const json& list, const Ids& ids,
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
    MOTET_ASSIGN_OR_RETURN(token.id, Id(item["id"], "added_tokens"));
    bool single_word = false;
    const std::pair<const char*, bool*> flags[] = {
        {"special", &token.special},   {"normalized", &token.normalized},
        {"lstrip", &token.lstrip},     {"rstrip", &token.rstrip},
        {"single_word", &single_word}};
    for (const auto& [key, flag] : flags) {
      const auto it = item.find(key);
      if (it == item.end()) continue;
      if (!it->is_boolean()) {
        return Invalid(Where("added_tokens"),
                       absl::StrCat(key, " of ", Shown(token.content),
                                    " that is no truth value"),
                       "true or false");
      }
      *flag = it->get<bool>();
    }
    MOTET_RETURN_IF_ERROR(
        KnownKeys(item, "added_tokens",
                  {"id", "content", "special", "normalized", "lstrip",
                   "rstrip", "single_word"}));
    if (single_word) {
      return Invalid(Where("added_tokens"),
                     absl::StrCat("single_word of ", Shown(token.content)),
                     "false", "use another tokenizer");
    }
    if (!seen.emplace(token.content, token.id).second) {
      return Invalid(Where("added_tokens"),
                     absl::StrCat(Shown(token.content), " twice"),
                     "every token once");
    }
    const auto known = ids.find(token.content);
    if (known == ids.end()) {
      MOTET_RETURN_IF_ERROR(
          SetToken(parts, token.id, token.content, "added_tokens"));
    } else if (known->second != token.id) {
      return Invalid(Where("added_tokens"),
                     absl::StrCat(Shown(token.content), " with id ", token.id),
                     absl::StrCat(known->second, ", as in model.vocab"));
    } else {
      parts.tokens[token.id] = token.content;
    }
    parts.added.push_back(std::move(token));
  }
  return absl::OkStatus();
}

// Normalising would need Unicode's tables: text must come in as the
// tokenizer's model wants it.
absl::Status CheckNormalizer(const json& part) {
  const auto list = part.is_object() ? part.find("normalizers") : part.end();
  const bool nothing = Type(part) == "Sequence" && list != part.end() &&
                       list->is_array() && list->empty();
  if (part.is_null() || nothing) return absl::OkStatus();
  return Invalid(Where("normalizer"), Shown(Type(part)), "none",
                 "use a tokenizer without normalizer");
}

// What would add tokens is refused: callers say themselves where a text
// begins and ends.
absl::Status CheckPostProcessor(const json& part, int depth = 0) {
  const std::string type = Type(part);
  if (part.is_null() || type == "ByteLevel") return absl::OkStatus();
  const auto list = part.is_object() ? part.find("processors") : part.end();
  if (type == "Sequence" && list != part.end() && list->is_array() &&
      depth < 4) {
    for (const json& item : *list) {
      MOTET_RETURN_IF_ERROR(CheckPostProcessor(item, depth + 1));
    }
    return absl::OkStatus();
  }
  const auto single = part.is_object() ? part.find("single") : part.end();
  if (type == "TemplateProcessing" && single != part.end() &&
      single->is_array() && single->size() == 1 &&
      (*single)[0].is_object() && (*single)[0].contains("Sequence")) {
    return absl::OkStatus();
  }
  return Invalid(Where("post_processor"),
                 type == "TemplateProcessing"
                     ? "a TemplateProcessing that adds tokens"
                     : Shown(type),
                 "none, ByteLevel or a template without added tokens",
                 "remove it; name such tokens in the prompt");
}

}  // namespace

absl::StatusOr<TokenizerParts> ParseTokenizerJson(const std::string& text) {
  if (text.size() > static_cast<size_t>(proto::kMaxTokenizerBytes)) {
    return Invalid("tokenizer.json", absl::StrCat(text.size(), " bytes"),
                   absl::StrCat("at most ", proto::kMaxTokenizerBytes));
  }
  MOTET_ASSIGN_OR_RETURN(const json root,
                         ParseStrictJson(text, "tokenizer.json"));
  if (!root.is_object()) {
    return Invalid("tokenizer.json", "no object", "an object");
  }
  MOTET_RETURN_IF_ERROR(KnownKeys(
      root, "document",
      {"version", "truncation", "padding", "added_tokens", "normalizer",
       "pre_tokenizer", "post_processor", "decoder", "model"}));
  const json none;
  const auto part = [&](const char* key) -> const json& {
    const auto it = root.find(key);
    return it == root.end() ? none : *it;
  };
  for (const char* key : {"truncation", "padding"}) {
    if (!part(key).is_null()) {
      return Invalid(Where(key), "a value", "null", "remove it");
    }
  }
  if (Type(part("decoder")) != "ByteLevel") {
    return Invalid(Where("decoder"), Shown(Type(part("decoder"))), "ByteLevel",
                   "use a byte-level BPE tokenizer");
  }
  TokenizerParts parts;
  MOTET_RETURN_IF_ERROR(CheckNormalizer(part("normalizer")));
  MOTET_ASSIGN_OR_RETURN(parts.pretokenizer,
                         Pretokenizer::Parse(part("pre_tokenizer")));
  MOTET_RETURN_IF_ERROR(CheckPostProcessor(part("post_processor")));
  Ids ids;
  MOTET_RETURN_IF_ERROR(ReadModel(part("model"), parts, ids));
  if (!part("added_tokens").is_null()) {
    MOTET_RETURN_IF_ERROR(ReadAdded(part("added_tokens"), ids, parts));
  }
  return parts;
}

}  // namespace motet::model
