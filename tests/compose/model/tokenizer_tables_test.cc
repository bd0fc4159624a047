// SPDX-License-Identifier: Apache-2.0
// The tables of a tokenizer.json, read from its text: the same documents are
// taken as by the reader that builds a tree, with the same errors.
#include "compose/model/tokenizer_tables.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "compose/model/json_cursor.h"
#include "compose/model/strict_json.h"

namespace motet::model {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

std::string Text(absl::string_view model) {
  return "{\"version\": \"1.0\", \"model\": " + std::string(model) +
         ", \"padding\": null}";
}

TEST(TokenizerTables, ComeOutOfTheDocument) {
  const std::string text = Text(
      R"({"type": "BPE", "vocab": { "a":0,"\u0120b" : 12 ,"c\"}":3 },)"
      R"( "x": [{"vocab": {"no": 1}}], "merges": ["a b", [ "c" , "\n" ]]})");
  TokenizerTables tables;
  const auto rest = TakeTokenizerTables(text, tables);
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_THAT(tables.vocabulary,
              ElementsAre(Pair("a", 0), Pair("\xC4\xA0" "b", 12),
                          Pair("c\"}", 3)));
  EXPECT_THAT(tables.merges,
              ElementsAre(Pair("a", "b"), Pair("c", "\n")));
  EXPECT_TRUE(tables.has_merges);
  EXPECT_EQ(*rest, json::parse(Text(
                       R"({"type": "BPE", "vocab": null,)"
                       R"( "x": [{"vocab": {"no": 1}}], "merges": null})")));
}

TEST(TokenizerTables, StayWhereTheyAreNoTables) {
  for (const char* model : {"{\"vocab\": [1], \"merges\": {\"a\": 1}}", "[]",
                            "7", "{}"}) {
    const std::string text = Text(model);
    TokenizerTables tables;
    const auto rest = TakeTokenizerTables(text, tables);
    ASSERT_TRUE(rest.ok()) << rest.status();
    EXPECT_EQ(*rest, json::parse(text));
    EXPECT_TRUE(tables.vocabulary.empty());
    EXPECT_FALSE(tables.has_merges);
  }
}

TEST(TokenizerTables, SayWhatTheyHoldInstead) {
  for (const char* id : {"-1", "-0", "4194304", "99999999999999999999", "1.0",
                         "1e1", "\"1\"", "null", "[[]]", "{\"a\": 1}"}) {
    const std::string text =
        Text("{\"vocab\": {\"a\": 0, \"b\": " + std::string(id) + "}}");
    TokenizerTables tables;
    EXPECT_TRUE(TakeTokenizerTables(text, tables).ok()) << id;
    EXPECT_THAT(std::string(tables.vocabulary_status.message()),
                HasSubstr("below 2^22")) << id;
    EXPECT_TRUE(tables.vocabulary.empty());
  }
  using Cases = std::vector<std::pair<std::string, std::string>>;
  for (const auto& [merge, want] : Cases{
           {"7", "neither text nor a pair"},
           {"[\"a\"]", "neither text nor a pair"},
           {"[\"a\", \"b\", \"c\"]", "neither text nor a pair"},
           {"[\"a\", 1]", "neither text nor a pair"},
           {"\"a\"", "a space between"},
           {"\"a b c\"", "a space between"}}) {
    const std::string text = Text("{\"merges\": [\"a b\", " + merge + "]}");
    TokenizerTables tables;
    EXPECT_TRUE(TakeTokenizerTables(text, tables).ok()) << merge;
    EXPECT_THAT(std::string(tables.merges_status.message()),
                testing::AllOf(HasSubstr(want), HasSubstr("model.merges 1")));
  }
}

TEST(TokenizerTables, RefuseWhatIsNoJson) {
  const std::string deep = std::string(70, '[') + std::string(70, ']');
  for (const std::string& model :
       {std::string("{\"vocab\": {\"a\": 1,}}"), std::string("{\"vocab\": {"),
        std::string("{\"vocab\": {\"a\": 01}}"),
        std::string("{\"vocab\": {\"a\" 1}}"),
        std::string("{\"vocab\": {\"a\": 1 2}}"),
        std::string("{\"vocab\": {\"a\": -}}"),
        std::string("{\"vocab\": {\"\xFF\": 1}}"),
        std::string("{\"vocab\": {\"\xED\xA0\x80\": 1}}"),
        std::string("{\"vocab\": {\"\n\": 1}}"),
        std::string("{\"vocab\": {\"\\x\": 1}}"),
        std::string("{\"vocab\": {\"\\u12G4\": 1}}"),
        std::string("{\"vocab\": {\"\\uD800\": 1}}"),
        std::string("{\"vocab\": {\"\\uDC00\": 1}}"),
        std::string("{\"vocab\": {\"\\uD800\\u0041\": 1}}"),
        std::string("{\"vocab\": {\"a\\"), std::string("{\"merges\": [\"a b\""),
        std::string("{\"merges\": [\"a b\",]}"),
        std::string("{\"merges\": [\"a b\" \"c d\"]}"),
        std::string("{\"merges\": [[\"a\" \"b\"]]}"),
        std::string("{\"merges\": [tru]}"),
        "{\"merges\": [" + deep + "]}", "{\"vocab\": {\"a\": " + deep + "}}",
        std::string("{\"vocab\": {}, \"vocab\": {}}"),
        std::string("{\"vocab\": {}}}"), std::string("{\"a\": tru}"),
        std::string("{\"a\": 1"), std::string("{\"vocab\": {\"a\": 1}")}) {
    const std::string text = Text(model);
    TokenizerTables tables;
    const absl::Status want =
        ParseStrictJson(text, "tokenizer.json").status();
    EXPECT_FALSE(want.ok()) << text;
    EXPECT_EQ(TakeTokenizerTables(text, tables).status(), want) << text;
  }
}

TEST(TokenizerTables, EveryEscapeIsNlohmanns) {
  const std::string text = Text(
      R"({"vocab": {"\"\\\/\b\f\n\r\t\u00e9\u20AC\uD83D\uDE00\u0000z": 5}})");
  TokenizerTables tables;
  ASSERT_TRUE(TakeTokenizerTables(text, tables).ok());
  ASSERT_EQ(tables.vocabulary.size(), 1u);
  EXPECT_EQ(json(std::string(tables.vocabulary[0].first)),
            json(json::parse(text)["model"]["vocab"].begin().key()));
}

TEST(TokenizerTables, AByteOrderMarkIsPassedOver) {
  const std::string text = "\xEF\xBB\xBF" + Text("{\"vocab\": {\"a\": 1}}");
  TokenizerTables tables;
  ASSERT_TRUE(TakeTokenizerTables(text, tables).ok());
  EXPECT_THAT(tables.vocabulary, ElementsAre(Pair("a", 1)));
}

TEST(JsonCursor, WholeNumbersEndWhereTheyEnd) {
  for (const auto& [text, want] : std::vector<std::pair<std::string, int64_t>>{
           {"0,", 0}, {" 17]", 17}, {"4294967295}", 4294967295},
           {"4294967296}", -1}, {"007,", -1}, {"1", -1}, {"1x,", -1},
           {"+1,", -1}, {"", -1}}) {
    JsonCursor in(text);
    uint32_t value = 0;
    const bool whole = in.Whole(value);
    EXPECT_EQ(whole, want >= 0) << text;
    if (whole) {
      EXPECT_EQ(value, want);
    }
  }
}

}  // namespace
}  // namespace motet::model
