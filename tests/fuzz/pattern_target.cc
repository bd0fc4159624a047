// SPDX-License-Identifier: Apache-2.0
// The regular expressions of pre-tokenizers, on patterns and texts alike,
// and the scans that stand for the best known of them.
#include <stdlib.h>

#include "compose/math/tensor.h"
#include "compose/model/pretokenizer.h"
#include "compose/model/pretokenizer_regex.h"
#include "compose/model/pretokenizer_scan.h"
#include "compose/model/unicode.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/targets.h"

namespace motet::fuzz {
namespace {

using nlohmann::json;

constexpr char kCl100k[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct Known {
  const char* pattern;
  std::unique_ptr<model::Regex> regex;
};

const std::vector<Known>& KnownPatterns() {
  static const auto* const known = [] {
    auto* list = new std::vector<Known>;
    for (const char* pattern : {model::kGpt2Pattern, kCl100k, kQwen}) {
      MOTET_CHECK(model::ScanOfPattern(pattern) != model::Scan::kNone);
      list->push_back({pattern, *model::Regex::Compile(pattern)});
    }
    return list;
  }();
  return *known;
}

void CheckScan(const Known& known, absl::string_view text) {
  static model::Matcher matcher;
  std::vector<absl::string_view> words;
  model::ScanWords(model::ScanOfPattern(known.pattern), text, words);
  size_t at = 0, begin = 0, end = 0;
  for (const absl::string_view word : words) {
    const auto result = matcher.Find(*known.regex, text, at, begin, end);
    // A pattern may ask for too much where a scan does not.
    if (result == model::Matcher::Result::kTooMuch) return;
    MOTET_CHECK(result == model::Matcher::Result::kFound);
    MOTET_CHECK(begin == at && text.substr(begin, end - begin) == word);
    at = end;
  }
  MOTET_CHECK(at == text.size());
}

}  // namespace

bool Pattern(const std::string& bytes) {
  const size_t line = bytes.find('\n');
  if (line == std::string::npos) return false;
  absl::string_view text = absl::string_view(bytes).substr(line + 1, 4096);
  text = text.substr(0, model::ValidUtf8Prefix(text));
  const std::string pattern = bytes.substr(0, line);
  if (pattern.size() == 1 && pattern[0] >= '0' && pattern[0] <= '2') {
    CheckScan(KnownPatterns()[pattern[0] - '0'], text);
    return true;
  }
  if (model::ValidUtf8Prefix(pattern) != pattern.size()) return false;
  const json part = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"},
         {"pattern", {{"Regex", pattern}}},
         {"behavior", "Isolated"},
         {"invert", false}},
        {{"type", "ByteLevel"},
         {"add_prefix_space", false},
         {"use_regex", false}}}}};
  const auto pretokenizer = model::Pretokenizer::Parse(part);
  if (!pretokenizer.ok()) return false;
  static model::Pretokenizer::Scratch scratch;
  (*pretokenizer)->Split(text, scratch);
  size_t at = 0;
  for (const absl::string_view word : scratch.words) {
    MOTET_CHECK(!word.empty() && text.substr(at, word.size()) == word);
    at += word.size();
  }
  MOTET_CHECK(at == text.size());
  return true;
}

Corpus PatternCorpus() {
  Corpus corpus;
  const std::string text =
      "I'll  take 12345 of\r\n\n them\u00A0'S \u017F '\u017F\u4F60\u597D"
      " e\u0301"
      "\U0001F600 aaaaaaaaab\t\u2028 x\u3000y\u0663\u00B2 \u0130.";
  for (const char* pattern : {"0", "1", "2", "\\s+|\\p{L}+", "(a|aa)+b",
                              "(?:x+x+)+y", "[^\\r\\n\\p{L}]?\\d{1,3}(?=\\S)",
                              kCl100k}) {
    corpus.seeds.push_back(std::string(pattern) + "\n" + text);
  }
  corpus.words = {"\\p{L}", "\\p{N}", "\\s",   "\\S",    "(?=", "(?<!",
                  "(?i:",   "*",      "+",     "{1,9}",  "[^",  "]",
                  "|",      "(a|aa)+", ".*",   "(.+)+",  "(?>", "\\x{10FFFF}",
                  "\\u0041", "x*",    "?",     ")",      "\r\n", "  ",
                  "'ll",    "'S",     "\u017F", "\u3000", "\u0301", "\u4F60"};
  return corpus;
}

}  // namespace motet::fuzz
