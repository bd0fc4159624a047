// SPDX-License-Identifier: Apache-2.0
#include "compose/model/pretokenizer.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "compose/model/tokenizer_part.h"
#include "compose/model/unicode.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::model {
namespace {

using nlohmann::json;
using proto::Invalid;

constexpr absl::string_view kWhere = "tokenizer.json pre_tokenizer";
constexpr int kMaxDepth = 8;
constexpr size_t kMaxSteps = 32;

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
  step.scan = Scan::kGpt2;
  result->steps_.push_back(std::move(step));
  return result;
}

absl::Status Pretokenizer::Add(const json& part, bool last, int depth) {
  MOTET_ASSIGN_OR_RETURN(const std::string type, PartType(part, kWhere));
  if (type == "Sequence") {
    MOTET_RETURN_IF_ERROR(
        CheckPartKeys(part, kWhere, {"type", "pretokenizers"}));
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
  if (type == "BertPreTokenizer" && last && steps_.empty()) {
    MOTET_RETURN_IF_ERROR(CheckPartKeys(part, kWhere, {"type"}));
    Step step;
    step.scan = Scan::kBert;
    steps_.push_back(std::move(step));
    byte_level_ = false;
    return absl::OkStatus();
  }
  if ((type == "ByteLevel") != last) {
    return Invalid(kWhere,
                   absl::StrCat(ShownPart(type), " ",
                                last ? "at the end" : "in the middle"),
                   "BertPreTokenizer alone, or ByteLevel, and at the end",
                   "use another tokenizer");
  }
  if (type == "ByteLevel") return AddByteLevel(part);
  if (type == "Split") return AddSplit(part);
  if (type == "Digits") {
    MOTET_RETURN_IF_ERROR(
        CheckPartKeys(part, kWhere, {"type", "individual_digits"}));
    MOTET_ASSIGN_OR_RETURN(const bool each,
                           PartFlag(part, kWhere, "individual_digits", false));
    Step step;
    step.scan = each ? Scan::kDigit : Scan::kDigits;
    steps_.push_back(std::move(step));
    return absl::OkStatus();
  }
  return Invalid(kWhere, ShownPart(type),
                 "Sequence, Split, Digits or ByteLevel",
                 "use another tokenizer");
}

absl::Status Pretokenizer::AddByteLevel(const json& part) {
  // trim_offsets moves offsets, which we do not report, and no ids.
  MOTET_RETURN_IF_ERROR(
      CheckPartKeys(part, kWhere, {"type", "add_prefix_space", "trim_offsets",
                                   "use_regex"}));
  Step step;
  MOTET_ASSIGN_OR_RETURN(step.prefix_space,
                         PartFlag(part, kWhere, "add_prefix_space", true));
  MOTET_ASSIGN_OR_RETURN(const bool use_regex,
                         PartFlag(part, kWhere, "use_regex", true));
  if (use_regex) step.scan = Scan::kGpt2;
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status Pretokenizer::AddSplit(const json& part) {
  MOTET_RETURN_IF_ERROR(
      CheckPartKeys(part, kWhere, {"type", "pattern", "behavior", "invert"}));
  MOTET_ASSIGN_OR_RETURN(const bool invert,
                         PartFlag(part, kWhere, "invert", false));
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
  const bool is_regex = pattern->begin().key() == "Regex";
  Step step;
  if (*behavior == "Removed") {
    step.keep_matches = invert;
    step.keep_between = !invert;
  }
  if (is_regex && step.keep_matches) step.scan = ScanOfPattern(text);
  if (step.scan == Scan::kNone) {
    MOTET_ASSIGN_OR_RETURN(step.regex,
                           Regex::Compile(is_regex ? text : Escaped(text)));
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
    if (!step.prefix_space && step.regex == nullptr &&
        step.scan == Scan::kNone) {
      continue;
    }
    scratch.next.clear();
    for (absl::string_view word : scratch.words) {
      if (step.prefix_space && word.front() != ' ') {
        word = scratch.made.emplace_back(absl::StrCat(" ", word));
      }
      if (step.regex != nullptr) {
        Cut(step, word, scratch);
      } else {
        ScanWords(step.scan, word, scratch.next);
      }
    }
    scratch.words.swap(scratch.next);
  }
}

}  // namespace motet::model
