// SPDX-License-Identifier: Apache-2.0
#include "compose/model/normalizer.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "compose/model/tokenizer_part.h"
#include "compose/model/unicode.h"
#include "compose/model/unicode_data.h"
#include "compose/model/unicode_normal.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using nlohmann::json;
using proto::Invalid;

constexpr absl::string_view kWhere = "tokenizer.json normalizer";
constexpr int kMaxDepth = 8;
constexpr size_t kMaxSteps = 32;

// As the stock library has it, with its 2B920 where Unicode says 2B820.
bool IsChinese(char32_t c) {
  const auto in = [c](char32_t first, char32_t last) {
    return c >= first && c <= last;
  };
  return in(0x4E00, 0x9FFF) || in(0x3400, 0x4DBF) || in(0x20000, 0x2A6DF) ||
         in(0x2A700, 0x2B73F) || in(0x2B740, 0x2B81F) ||
         in(0x2B920, 0x2CEAF) || in(0xF900, 0xFAFF) || in(0x2F800, 0x2FA1F);
}

// Drops what clean_text drops, makes white space a space, sets Chinese
// characters apart.
void Clean(std::string& text, bool clean, bool chinese) {
  const UnicodeData& data = UnicodeData::Get();
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = NextCodePoint(text, at);
    const uint16_t properties = data.Properties(c);
    if (clean && (properties & kRemoved)) continue;
    if (clean && (properties & kSpace)) {
      out += ' ';
    } else if (chinese && IsChinese(c)) {
      out += ' ';
      out.append(text, begin, at - begin);
      out += ' ';
    } else {
      out.append(text, begin, at - begin);
    }
  }
  text = std::move(out);
}

void StripAccents(std::string& text) {
  ToNfd(text);
  const UnicodeData& data = UnicodeData::Get();
  size_t to = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      text[to++] = text[at++];
      continue;
    }
    if (data.Properties(NextCodePoint(text, at)) & kMark) continue;
    for (size_t i = begin; i < at; ++i) text[to++] = text[i];
  }
  text.resize(to);
}

}  // namespace

absl::StatusOr<Normalizer> Normalizer::Parse(const json& part) {
  Normalizer result;
  if (!part.is_null()) MOTET_RETURN_IF_ERROR(result.Add(part, 0));
  return result;
}

absl::Status Normalizer::Add(const json& part, int depth) {
  MOTET_ASSIGN_OR_RETURN(const std::string type, PartType(part, kWhere));
  if (type == "Sequence") {
    MOTET_RETURN_IF_ERROR(
        CheckPartKeys(part, kWhere, {"type", "normalizers"}));
    const auto parts = part.find("normalizers");
    if (parts == part.end() || !parts->is_array() || depth >= kMaxDepth) {
      return Invalid(kWhere, "a Sequence without parts, or nested too deep",
                     "parts in it");
    }
    for (const json& item : *parts) {
      MOTET_RETURN_IF_ERROR(Add(item, depth + 1));
    }
    return absl::OkStatus();
  }
  if (steps_.size() >= kMaxSteps) {
    return Invalid(kWhere, absl::StrCat("more than ", kMaxSteps, " parts"),
                   "fewer parts");
  }
  if (type == "BertNormalizer") return AddBert(part);
  MOTET_RETURN_IF_ERROR(CheckPartKeys(part, kWhere, {"type"}));
  Step step;
  if (type == "NFC") {
    step.nfc = true;
  } else if (type == "NFD") {
    step.nfd = true;
  } else if (type == "Lowercase") {
    step.lower = true;
  } else {
    return Invalid(kWhere, ShownPart(type),
                   "NFC, NFD, Lowercase, BertNormalizer or a Sequence of "
                   "these",
                   "use another tokenizer");
  }
  steps_.push_back(step);
  return absl::OkStatus();
}

absl::Status Normalizer::AddBert(const json& part) {
  MOTET_RETURN_IF_ERROR(
      CheckPartKeys(part, kWhere,
                    {"type", "clean_text", "handle_chinese_chars",
                     "strip_accents", "lowercase"}));
  Step step;
  MOTET_ASSIGN_OR_RETURN(step.clean,
                         PartFlag(part, kWhere, "clean_text", true));
  MOTET_ASSIGN_OR_RETURN(step.chinese,
                         PartFlag(part, kWhere, "handle_chinese_chars", true));
  MOTET_ASSIGN_OR_RETURN(step.lower,
                         PartFlag(part, kWhere, "lowercase", true));
  // null: as `lowercase`.
  const auto accents = part.find("strip_accents");
  step.accents = step.lower;
  if (accents != part.end() && !accents->is_null()) {
    MOTET_ASSIGN_OR_RETURN(step.accents,
                           PartFlag(part, kWhere, "strip_accents", false));
  }
  steps_.push_back(step);
  return absl::OkStatus();
}

void Normalizer::Normalize(std::string& text) const {
  for (const Step& step : steps_) {
    if (step.clean || step.chinese) Clean(text, step.clean, step.chinese);
    if (step.accents) StripAccents(text);
    if (step.nfc) ToNfc(text);
    if (step.nfd) ToNfd(text);
    if (step.lower) ToLower(text);
  }
}

}  // namespace motet::model
