// SPDX-License-Identifier: Apache-2.0
// Expected words were checked against the stock `tokenizers` library 0.23.
#include <string>
#include <vector>

#include "compose/model/pretokenizer.h"
#include "compose/model/unicode.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace motet::model {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json ByteLevelPart(bool regex, bool prefix = false) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", prefix},
          {"trim_offsets", true},
          {"use_regex", regex}};
}
json SplitPart(const std::string& pattern, const char* behavior, bool invert,
               const char* kind = "Regex") {
  return {{"type", "Split"},
          {"pattern", {{kind, pattern}}},
          {"behavior", behavior},
          {"invert", invert}};
}
json Sequence(const json& first) {
  return {{"type", "Sequence"},
          {"pretokenizers", json::array({first, ByteLevelPart(false)})}};
}

std::vector<std::string> Words(const json& part, const std::string& text) {
  const auto pretokenizer = Pretokenizer::Parse(part);
  EXPECT_TRUE(pretokenizer.ok()) << pretokenizer.status();
  if (!pretokenizer.ok()) return {};
  Pretokenizer::Scratch scratch;
  (*pretokenizer)->Split(text, scratch);
  return {scratch.words.begin(), scratch.words.end()};
}

std::string Refusal(const json& part) {
  const auto pretokenizer = Pretokenizer::Parse(part);
  return pretokenizer.ok() ? "" : std::string(pretokenizer.status().message());
}

TEST(Pretokenizer, SplitsAsGpt2Does) {
  EXPECT_THAT(Words(ByteLevelPart(true), "Hello  world's 12x!?\n\n a"),
              ElementsAre("Hello", " ", " world", "'s", " 12", "x", "!?",
                          "\n\n", " a"));
  EXPECT_THAT(Words(ByteLevelPart(true, true), "a b"),
              ElementsAre(" a", " b"));
  EXPECT_THAT(Words(ByteLevelPart(true, true), " a"), ElementsAre(" a"));
  EXPECT_THAT(Words(ByteLevelPart(true), ""), ElementsAre());
  // White space is Unicode's: U+00A0 and U+3000 are, U+180E is not.
  EXPECT_THAT(Words(ByteLevelPart(true), "a\u00A0\u3000b\u180Ec"),
              ElementsAre("a", "\u00A0", "\u3000", "b", "\u180E", "c"));
  // A letter of Unicode 15 (CJK extension H).
  EXPECT_THAT(Words(ByteLevelPart(true), "a\U00031350 b"),
              ElementsAre("a\U00031350", " b"));
}

TEST(Pretokenizer, SplitsAsOlmo2AndLlama3Do) {
  const std::string pattern =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
      " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  for (const json& part :
       {Sequence(SplitPart(pattern, "Removed", true)),
        Sequence(SplitPart(pattern, "Isolated", false))}) {
    EXPECT_THAT(Words(part, "I'LL take 12345 (x)!\r\n  \n  ok "),
                ElementsAre("I", "'LL", " take", " ", "123", "45", " (", "x",
                            ")!\r\n", "  \n", " ", " ok", " "));
  }
}

TEST(Pretokenizer, BehavioursAndInversion) {
  const std::string text = "a1b22";
  EXPECT_THAT(Words(Sequence(SplitPart("\\d", "Isolated", false)), text),
              ElementsAre("a", "1", "b", "2", "2"));
  EXPECT_THAT(Words(Sequence(SplitPart("\\d+", "Removed", false)), text),
              ElementsAre("a", "b"));
  EXPECT_THAT(Words(Sequence(SplitPart("\\d+", "Removed", true)), text),
              ElementsAre("1", "22"));
  EXPECT_THAT(Words(Sequence(SplitPart(".", "Isolated", false, "String")),
                    "a.b\u00E9"),
              ElementsAre("a", ".", "b\u00E9"));
  // A pattern that matches nothing at all cuts at every character.
  EXPECT_THAT(Words(Sequence(SplitPart("x*", "Isolated", false)), "a\u00E9xx"),
              ElementsAre("a", "\u00E9", "xx"));
}

TEST(Pretokenizer, Digits) {
  const json each = {{"type", "Digits"}, {"individual_digits", true}};
  const json runs = {{"type", "Digits"}, {"individual_digits", false}};
  EXPECT_THAT(Words(Sequence(each), "a12\u00BD"),
              ElementsAre("a", "1", "2", "\u00BD"));
  EXPECT_THAT(Words(Sequence(runs), "a12 3"), ElementsAre("a", "12", " ", "3"));
}

TEST(Pretokenizer, LongRunsAreNeitherLostNorSlow) {
  const std::string spaces(1 << 20, ' ');
  const json part = Sequence(SplitPart("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
                                       "Removed", true));
  EXPECT_TRUE(Words(part, spaces) == std::vector<std::string>{spaces});
  // A pattern beyond its limit: the rest stays one word.
  const json wild = Sequence(SplitPart("(a|aa)+[bc]", "Removed", true));
  const std::string text(2000, 'a');
  EXPECT_TRUE(Words(wild, text) == std::vector<std::string>{text});
}

TEST(Pretokenizer, RefusesByName) {
  EXPECT_THAT(Refusal(nullptr), HasSubstr("got none"));
  EXPECT_THAT(Refusal(json::object()), HasSubstr("without type"));
  EXPECT_THAT(Refusal({{"type", "Metaspace"}}), HasSubstr("Metaspace"));
  EXPECT_THAT(Refusal(SplitPart("a", "Isolated", false)),
              HasSubstr("\"Split\" at the end"));
  EXPECT_THAT(Refusal(Sequence(ByteLevelPart(true))),
              HasSubstr("in the middle"));
  EXPECT_THAT(Refusal(Sequence({{"type", "Whitespace"}})),
              HasSubstr("\"Whitespace\""));
  EXPECT_THAT(Refusal(Sequence(SplitPart("a", "MergedWithNext", false))),
              HasSubstr("neither Isolated nor Removed"));
  EXPECT_THAT(Refusal({{"type", "Sequence"}, {"pretokenizers", json::array()}}),
              HasSubstr("without parts"));
  json novel = ByteLevelPart(true);
  novel["novel"] = 1;
  EXPECT_THAT(Refusal(novel), HasSubstr("key \"novel\""));
  novel = ByteLevelPart(true);
  novel["use_regex"] = 1;
  EXPECT_THAT(Refusal(novel), HasSubstr("use_regex"));
  json deep = ByteLevelPart(true);
  for (int i = 0; i < 20; ++i) {
    deep = {{"type", "Sequence"}, {"pretokenizers", json::array({deep})}};
  }
  EXPECT_THAT(Refusal(deep), HasSubstr("nested too deep"));
  for (const char* pattern :
       {"", "^a", "a$", "(*UTF)a", "(?P<n>a)", "a(?i)b", "\\w+", "\\b", "\\1",
        "\\p{Han}", "\\pL", "\\p{^L}", "[a[b]]", "[a&&b]", "[]a]", "a{,3}",
        "a{2}+", "\\x{}", "\\u12", "\\", "(", "[a", "a{2000000}",
        "[_-\\p{L}]"}) {
    EXPECT_NE(Refusal(Sequence(SplitPart(pattern, "Isolated", false))), "")
        << pattern;
  }
}

TEST(Unicode, Utf8) {
  EXPECT_EQ(ValidUtf8Prefix("abcdefghij\xC3\xA9"), 12u);
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF",
                          "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC3",
                          "\xE2\x82", "\xF0\x9F\x98"}) {
    EXPECT_EQ(ValidUtf8Prefix(bad), 0u);
  }
  for (char32_t c = 0; c < 0x110000; c += c < 0x10000 ? 1 : 97) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, text);
    size_t at = 0;
    ASSERT_EQ(ValidUtf8Prefix(text), text.size());
    ASSERT_EQ(NextCodePoint(text, at), c);
    ASSERT_EQ(at, text.size());
  }
}

TEST(Unicode, BytesAreSpelledAndUnspelled) {
  std::string all;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
  EXPECT_EQ(UnspellBytes(SpellBytes(all)), all);
  EXPECT_EQ(SpellBytes(" \n"), "\u0120\u010A");
  EXPECT_EQ(UnspellBytes("a b"), "a b");
  EXPECT_EQ(UnspellBytes("\u4F60"), "\u4F60");
}

}  // namespace
}  // namespace motet::model
