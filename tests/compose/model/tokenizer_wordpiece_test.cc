// SPDX-License-Identifier: Apache-2.0
// WordPiece tokenizers whole: what is added around a text, cut, decoded; and
// words that an added token may not touch.
#include "compose/model/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace motet::model {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json Added(int id, const char* content) {
  return {{"id", id}, {"content", content}, {"special", true}};
}
json Document() {
  json vocab;
  int id = 0;
  for (const char* token :
       {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "##ed", "p", "a",
        ".", "\u4F60", "elan", "'", "do", "not"}) {
    vocab[token] = id++;
  }
  return {
      {"version", "1.0"},
      {"truncation", {{"max_length", 3}}},
      {"padding", {{"pad_id", 0}}},
      {"added_tokens", {Added(0, "[PAD]"), Added(1, "[UNK]"),
                        Added(2, "[CLS]"), Added(3, "[SEP]")}},
      {"normalizer",
       {{"type", "BertNormalizer"},
        {"clean_text", true},
        {"handle_chinese_chars", true},
        {"strip_accents", nullptr},
        {"lowercase", true}}},
      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "[CLS]"}, {"type_id", 0}}}},
                    {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
                    {{"SpecialToken", {{"id", "[SEP]"}, {"type_id", 0}}}}}},
        {"pair", json::array()},
        {"special_tokens",
         {{"[CLS]", {{"id", "[CLS]"}, {"ids", {2}}, {"tokens", {"[CLS]"}}}},
          {"[SEP]", {{"id", "[SEP]"}, {"ids", {3}}, {"tokens", {"[SEP]"}}}}}}}},
      {"decoder",
       {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
      {"model",
       {{"type", "WordPiece"},
        {"unk_token", "[UNK]"},
        {"continuing_subword_prefix", "##"},
        {"max_input_chars_per_word", 10},
        {"vocab", vocab}}}};
}
std::unique_ptr<Tokenizer> Make(const json& document = Document()) {
  auto tokenizer = Tokenizer::Parse(document.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}
std::string Refusal(const json& document) {
  const auto tokenizer = Tokenizer::Parse(document.dump());
  return tokenizer.ok() ? "" : std::string(tokenizer.status().message());
}
EncodeOptions Plain(int64_t max_tokens = 0) {
  return {.add_special_tokens = false, .max_tokens = max_tokens};
}

TEST(WordPiece, TakesTheLongestPieces) {
  const auto t = Make();
  EXPECT_THAT(t->Encode("Playing played.", Plain()),
              ElementsAre(4, 5, 4, 6, 9));
  EXPECT_THAT(t->Encode("\u00C9lan\u4F60a", Plain()), ElementsAre(11, 10, 8));
  // No pieces for its end, or too long: the whole word is unknown.
  EXPECT_THAT(t->Encode("playx a", Plain()), ElementsAre(1, 8));
  EXPECT_THAT(t->Encode("playinginging", Plain()), ElementsAre(1));
  EXPECT_THAT(t->Encode("", Plain()), ElementsAre());
  // Each invalid byte is U+FFFD, which clean_text drops.
  EXPECT_THAT(t->Encode("pl\xFF" "ay\xC3", Plain()), ElementsAre(4));
}

TEST(WordPiece, AddsWhatTheTokenizerAddsAndCuts) {
  const auto t = Make();
  EXPECT_THAT(t->Encode("a a a"), ElementsAre(2, 8, 8, 8, 3));
  EXPECT_THAT(t->Encode(""), ElementsAre(2, 3));
  EXPECT_THAT(t->Encode("a a a", {.max_tokens = 4}), ElementsAre(2, 8, 8, 3));
  EXPECT_THAT(t->Encode("a a a", {.max_tokens = 1}), ElementsAre(2, 3));
  EXPECT_THAT(t->Encode("a a a", Plain(2)), ElementsAre(8, 8));
  EXPECT_THAT(t->Encode("[SEP]a", Plain()), ElementsAre(3, 8));
  json pair = Document();
  pair["post_processor"] = {{"type", "BertProcessing"},
                            {"sep", {"[SEP]", 3}},
                            {"cls", {"[CLS]", 2}}};
  EXPECT_THAT(Make(pair)->Encode("a"), ElementsAre(2, 8, 3));
  pair["post_processor"]["type"] = "RobertaProcessing";
  EXPECT_THAT(Make(pair)->Encode("a"), ElementsAre(2, 8, 3));
  json twice = Document();
  twice["post_processor"] = {
      {"type", "Sequence"},
      {"processors", {{{"type", "ByteLevel"}}, pair["post_processor"]}}};
  EXPECT_THAT(Make(twice)->Encode("a"), ElementsAre(2, 8, 3));
}

TEST(WordPiece, DecodesWithSpacesAndCleansUp) {
  const auto t = Make();
  EXPECT_EQ(t->Decode({2, 4, 5, 8, 9, 3}), "playing a.");
  EXPECT_EQ(t->Decode({2, 4, 3}, true), "[CLS] play [SEP]");
  EXPECT_EQ(t->Decode({5, 4, 99, -1}), "##ing play");
  json raw = Document();
  raw["decoder"]["cleanup"] = false;
  EXPECT_EQ(Make(raw)->Decode({8, 9}), "a .");
}

TEST(WordPiece, AddedTokensStandAloneWhenTheyMust) {
  json document = Document();
  json solo = Added(15, "solo");
  solo["single_word"] = true;
  document["added_tokens"].push_back(solo);
  json accent = Added(16, "\u00C9t");
  accent["normalized"] = true;
  document["added_tokens"].push_back(accent);
  const auto t = Make(document);
  EXPECT_THAT(t->Encode("a solo.", Plain()), ElementsAre(8, 15, 9));
  // Beside a letter it is text, and no piece of a word.
  EXPECT_THAT(t->Encode("solop", Plain()), ElementsAre(1));
  EXPECT_THAT(t->Encode("\u4F60solo", Plain()), ElementsAre(10, 1));
  // Normalized as the text is.
  EXPECT_THAT(t->Encode("et\u00C9T", Plain()), ElementsAre(16, 16));
}

TEST(WordPiece, RefusesByName) {
  const auto with = [](const char* pointer, const json& value) {
    json document = Document();
    document[json::json_pointer(pointer)] = value;
    return Refusal(document);
  };
  EXPECT_THAT(with("/model/unk_token", "none"), HasSubstr("unk_token"));
  EXPECT_THAT(with("/model/novel", 1), HasSubstr("novel"));
  EXPECT_THAT(with("/model/max_input_chars_per_word", "x"),
              HasSubstr("max_input_chars_per_word"));
  EXPECT_THAT(with("/decoder/type", "ByteLevel"), HasSubstr("ByteLevel"));
  EXPECT_THAT(with("/pre_tokenizer", {{"type", "ByteLevel"}}),
              HasSubstr("words of the wrong kind"));
  EXPECT_THAT(with("/post_processor/type", "Novel"), HasSubstr("Novel"));
  EXPECT_THAT(with("/post_processor/single", json::array()),
              HasSubstr("without its text"));
  EXPECT_THAT(with("/post_processor/special_tokens/[CLS]/ids", {99}),
              HasSubstr("0 to 14"));
  EXPECT_THAT(with("/post_processor/special_tokens", json::object()),
              HasSubstr("\"[CLS]\" without ids"));
}

}  // namespace
}  // namespace motet::model
