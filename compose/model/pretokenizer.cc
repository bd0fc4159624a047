// SPDX-License-Identifier: Apache-2.0
#include "compose/model/pretokenizer.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "compose/model/unicode.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::model {
namespace {

using nlohmann::json;
using proto::Invalid;

constexpr absl::string_view kWhere = "tokenizer.json pre_tokenizer";
constexpr absl::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)"
    R"(|\s+(?!\S)|\s+)";
constexpr int kMaxDepth = 8;
constexpr size_t kMaxSteps = 32;

// A truth value that may be absent; anything else there is an error.
absl::StatusOr<bool> Flag(const json& part, const char* key, bool absent) {
  const auto it = part.find(key);
  if (it == part.end()) return absent;
  if (!it->is_boolean()) {
    return Invalid(kWhere, absl::StrCat(key, " that is no truth value"),
                   "true or false");
  }
  return it->get<bool>();
}

absl::Status KnownKeys(const json& part,
                       std::initializer_list<absl::string_view> known) {
  for (const auto& [key, value] : part.items()) {
    bool found = false;
    for (absl::string_view k : known) found |= k == key;
    if (!found) {
      return Invalid(kWhere,
                     absl::StrCat("key \"", absl::CHexEscape(key), "\""),
                     "keys that we know", "use another tokenizer");
    }
  }
  return absl::OkStatus();
}

std::string Escaped(const std::string& literal) {
  std::string pattern;
  for (const char c : literal) {
    if (absl::ascii_ispunct(static_cast<unsigned char>(c))) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Pretokenizer>> Pretokenizer::Parse(
    const json& part) {
  std::unique_ptr<Pretokenizer> result(new Pretokenizer);
  MOTET_RETURN_IF_ERROR(result->Add(part, /*last=*/true, 0));
  return result;
}

std::unique_ptr<Pretokenizer> Pretokenizer::ByteLevel() {
  std::unique_ptr<Pretokenizer> result(new Pretokenizer);
  Step step;
  step.regex = *Regex::Compile(kGpt2Pattern);
  result->steps_.push_back(std::move(step));
  return result;
}

absl::Status Pretokenizer::Add(const json& part, bool last, int depth) {
  const auto type_at = part.is_object() ? part.find("type") : part.end();
  if (!part.is_object() || type_at == part.end() || !type_at->is_string()) {
    return Invalid(kWhere, part.is_null() ? "none" : "a part without type",
                   "ByteLevel, or a Sequence that ends in it",
                   "use a byte-level tokenizer");
  }
  const std::string& type = type_at->get_ref<const std::string&>();
  if (type == "Sequence") {
    MOTET_RETURN_IF_ERROR(KnownKeys(part, {"type", "pretokenizers"}));
    const auto parts = part.find("pretokenizers");
    if (parts == part.end() || !parts->is_array() || parts->empty() ||
        depth >= kMaxDepth) {
      return Invalid(kWhere, "a Sequence without parts, or nested too deep",
                     "parts in it");
    }
    for (size_t i = 0; i < parts->size(); ++i) {
      MOTET_RETURN_IF_ERROR(
          Add((*parts)[i], last && i + 1 == parts->size(), depth + 1));
    }
    return absl::OkStatus();
  }
  if (steps_.size() >= kMaxSteps) {
    return Invalid(kWhere, absl::StrCat("more than ", kMaxSteps, " parts"),
                   "fewer parts");
  }
  if ((type == "ByteLevel") != last) {
    return Invalid(kWhere,
                   absl::StrCat("\"", absl::CHexEscape(type.substr(0, 100)),
                                "\" ", last ? "at the end" : "in the middle"),
                   "ByteLevel, and at the end", "use a byte-level tokenizer");
  }
  if (type == "ByteLevel") return AddByteLevel(part);
  if (type == "Split") return AddSplit(part);
  if (type == "Digits") {
    MOTET_RETURN_IF_ERROR(KnownKeys(part, {"type", "individual_digits"}));
    MOTET_ASSIGN_OR_RETURN(const bool each,
                           Flag(part, "individual_digits", false));
    Step step;
    MOTET_ASSIGN_OR_RETURN(step.regex,
                           Regex::Compile(each ? "\\p{N}" : "\\p{N}+"));
    steps_.push_back(std::move(step));
    return absl::OkStatus();
  }
  const std::string shown = absl::CHexEscape(type.substr(0, 100));
  return Invalid(kWhere, absl::StrCat("\"", shown, "\""),
                 "Sequence, Split, Digits or ByteLevel",
                 "use another tokenizer");
}

absl::Status Pretokenizer::AddByteLevel(const json& part) {
  // trim_offsets moves offsets, which we do not report, and no ids.
  MOTET_RETURN_IF_ERROR(KnownKeys(
      part, {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  Step step;
  MOTET_ASSIGN_OR_RETURN(step.prefix_space,
                         Flag(part, "add_prefix_space", true));
  MOTET_ASSIGN_OR_RETURN(const bool use_regex, Flag(part, "use_regex", true));
  if (use_regex) {
    MOTET_ASSIGN_OR_RETURN(step.regex, Regex::Compile(kGpt2Pattern));
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status Pretokenizer::AddSplit(const json& part) {
  MOTET_RETURN_IF_ERROR(
      KnownKeys(part, {"type", "pattern", "behavior", "invert"}));
  MOTET_ASSIGN_OR_RETURN(const bool invert, Flag(part, "invert", false));
  const auto behavior = part.find("behavior");
  if (behavior == part.end() ||
      (*behavior != "Isolated" && *behavior != "Removed")) {
    return Invalid(kWhere, "a Split that is neither Isolated nor Removed",
                   "Isolated or Removed", "use another tokenizer");
  }
  const auto pattern = part.find("pattern");
  if (pattern == part.end() || !pattern->is_object() || pattern->size() != 1 ||
      !pattern->begin()->is_string() ||
      (pattern->begin().key() != "Regex" &&
       pattern->begin().key() != "String")) {
    return Invalid(kWhere, "a Split without Regex or String",
                   "{\"Regex\": ...} or {\"String\": ...}");
  }
  const std::string& text = pattern->begin()->get_ref<const std::string&>();
  Step step;
  MOTET_ASSIGN_OR_RETURN(
      step.regex, Regex::Compile(pattern->begin().key() == "Regex"
                                     ? text
                                     : Escaped(text)));
  if (*behavior == "Removed") {
    step.keep_matches = invert;
    step.keep_between = !invert;
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

void Pretokenizer::Cut(const Step& step, absl::string_view word,
                       Scratch& scratch) {
  const auto keep = [&](size_t from, size_t to, bool wanted) {
    if (wanted && from < to) {
      scratch.next.push_back(word.substr(from, to - from));
    }
  };
  size_t done = 0, from = 0, begin = 0, end = 0;
  for (;;) {
    const Matcher::Result result =
        scratch.matcher.Find(*step.regex, word, from, begin, end);
    if (result != Matcher::Result::kFound) {
      // Where a pattern gives up, no text may be lost.
      keep(done, word.size(),
           step.keep_between || result == Matcher::Result::kTooMuch);
      return;
    }
    keep(done, begin, step.keep_between);
    keep(begin, end, step.keep_matches);
    done = end;
    from = end;
    // A match of nothing cuts there; the search goes on behind the next
    // character.
    if (begin == end) {
      if (from >= word.size()) return;
      NextCodePoint(word, from);
    }
  }
}

void Pretokenizer::Split(absl::string_view text, Scratch& scratch) const {
  scratch.words.clear();
  scratch.made.clear();
  if (!text.empty()) scratch.words.push_back(text);
  for (const Step& step : steps_) {
    if (!step.prefix_space && step.regex == nullptr) continue;
    scratch.next.clear();
    for (absl::string_view word : scratch.words) {
      if (step.prefix_space && word.front() != ' ') {
        word = scratch.made.emplace_back(absl::StrCat(" ", word));
      }
      if (step.regex != nullptr) {
        Cut(step, word, scratch);
      } else {
        scratch.next.push_back(word);
      }
    }
    scratch.words.swap(scratch.next);
  }
}

}  // namespace motet::model
