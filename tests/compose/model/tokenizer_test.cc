// SPDX-License-Identifier: Apache-2.0
#include "compose/model/tokenizer.h"

#include <string>
#include <thread>
#include <vector>

#include "compose/model/unicode.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace motet::model {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A byte-level tokenizer of the 256 bytes (ids 0 to 255 by value) and a few
// merges, as a document to change.
json Document() {
  json j;
  j["version"] = "1.0";
  j["pre_tokenizer"] = {{"type", "ByteLevel"},
                        {"add_prefix_space", false},
                        {"trim_offsets", true},
                        {"use_regex", true}};
  j["decoder"] = {{"type", "ByteLevel"}};
  json vocab = json::object();
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    vocab[SpellBytes(absl::string_view(&byte, 1))] = b;
  }
  vocab["th"] = 256;
  vocab["the"] = 257;
  vocab["\u0120the"] = 258;  // U+0120 spells the space
  vocab["he"] = 259;
  j["model"] = {{"type", "BPE"},
                {"vocab", vocab},
                {"merges", {"t h", "th e", "\u0120 the", "h e"}}};
  j["added_tokens"] = json::array(
      {{{"id", 260}, {"content", "<|end|>"}, {"special", true}},
       {{"id", 261}, {"content", "<|endoftext|>"}, {"special", true}},
       {{"id", 262}, {"content", "[M]"}, {"lstrip", true}, {"rstrip", true}},
       {{"id", 263}, {"content", "<|e"}, {"normalized", true}}});
  return j;
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

TEST(Tokenizer, MergesWithinWords) {
  const auto t = Make();
  EXPECT_THAT(t->Encode("the the"), ElementsAre(257, 258));
  EXPECT_THAT(t->Encode("hethe"), ElementsAre(259, 257));
  EXPECT_THAT(t->Encode("a\n"), ElementsAre('a', '\n'));
  EXPECT_THAT(t->Encode(""), ElementsAre());
  EXPECT_EQ(t->vocabulary(), 264);
  EXPECT_EQ(t->IdOf(" the"), 258);
  EXPECT_EQ(t->IdOf("<|end|>"), 260);
  EXPECT_EQ(t->IdOf("nothing"), -1);
  EXPECT_EQ(t->TokenBytes(258), " the");
  EXPECT_EQ(t->TokenBytes(-1), "");
  EXPECT_EQ(t->TokenBytes(264), "");
}

TEST(Tokenizer, AddedTokensComeFirstAndTheLongestWins) {
  const auto t = Make();
  EXPECT_THAT(t->Encode("<|end|><|endoftext|>"), ElementsAre(260, 261));
  EXPECT_THAT(t->Encode("the<|end|>the"), ElementsAre(257, 260, 257));
  EXPECT_THAT(t->Encode("<|en"), ElementsAre(263, 'n'));
  EXPECT_THAT(t->Encode("<|end"), ElementsAre(263, 'n', 'd'));
  EXPECT_THAT(t->Encode("a \xC2\xA0[M] \n b"), ElementsAre('a', 262, 'b'));
}

TEST(Tokenizer, DecodeLeavesSpecialsOut) {
  const auto t = Make();
  const std::vector<int32_t> ids = {257, 260, 258, 9999, -5, 263};
  EXPECT_EQ(t->Decode(ids), "the the<|e");
  EXPECT_EQ(t->Decode(ids, true), "the<|end|> the<|e");
}

TEST(Tokenizer, AnyBytesSurvive) {
  const auto t = Make();
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  uint32_t state = 7;
  for (int length = 0; length < 300; ++length) {
    std::string bytes = length == 0 ? all : "";
    for (int i = 0; i < length; ++i) {
      state = state * 1664525 + 1013904223;
      bytes += state >> 30 ? static_cast<char>(state >> 16) : 't';
    }
    EXPECT_EQ(t->Decode(t->Encode(bytes)), bytes) << length;
  }
  // A whole character is never torn by bad bytes beside it.
  EXPECT_EQ(t->Encode("\xC3\xA9").size(), 2u);
  EXPECT_EQ(t->Decode(t->Encode("\xFFthe\xC3")), "\xFFthe\xC3");
  EXPECT_THAT(t->Encode("\xFFthe\xC3"), ElementsAre(0xFF, 257, 0xC3));
}

TEST(Tokenizer, LongWordsAreNotQuadratic) {
  const auto t = Make();
  std::string word;
  for (int i = 0; i < 300000; ++i) word += "the";
  EXPECT_EQ(t->Encode(word), std::vector<int32_t>(300000, 257));
  const std::string spaces(1 << 20, ' ');
  EXPECT_EQ(t->Encode(spaces).size(), spaces.size());
}

// The plain algorithm: look for the lowest pair, again and again.
std::vector<int32_t> Naive(const json& document, const std::string& word) {
  std::vector<std::string> parts;
  for (const char c : word) parts.push_back(SpellBytes({&c, 1}));
  for (;;) {
    size_t best = document["model"]["merges"].size(), at = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      for (size_t m = 0; m < best; ++m) {
        if (document["model"]["merges"][m] == parts[i] + " " + parts[i + 1]) {
          best = m;
          at = i;
        }
      }
    }
    if (best == document["model"]["merges"].size()) break;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + at + 1);
  }
  std::vector<int32_t> ids;
  const json& vocab = document["model"]["vocab"];
  for (const std::string& p : parts) ids.push_back(vocab[p]);
  return ids;
}

TEST(Tokenizer, TheHeapMergesAsThePlainAlgorithmDoes) {
  json document = Document();
  json& vocab = document["model"]["vocab"];
  json& merges = document["model"]["merges"];
  merges = json::array();
  document["added_tokens"] = json::array();
  int id = 1000;
  for (const char* pair : {"a a", "a b", "b a", "aa aa", "ab ab", "aa b",
                           "b b", "aab a", "abab ab", "a aab", "ba ba"}) {
    merges.push_back(pair);
    const std::string text(pair);
    const size_t space = text.find(' ');
    const std::string both = text.substr(0, space) + text.substr(space + 1);
    if (!vocab.contains(both)) vocab[both] = id++;
  }
  const auto t = Make(document);
  for (int n = 1; n <= 10; ++n) {
    for (int bits = 0; bits < 1 << n; ++bits) {
      std::string word;
      for (int i = 0; i < n; ++i) word += bits >> i & 1 ? 'a' : 'b';
      EXPECT_EQ(t->Encode(word), Naive(document, word)) << word;
    }
  }
}

TEST(Tokenizer, IgnoreMergesTakesWholeWords) {
  json document = Document();
  document["model"]["vocab"]["xyz"] = 300;
  EXPECT_THAT(Make(document)->Encode("xyz"), ElementsAre('x', 'y', 'z'));
  document["model"]["ignore_merges"] = true;
  EXPECT_THAT(Make(document)->Encode("xyz"), ElementsAre(300));
}

TEST(Tokenizer, MergesMayBePairs) {
  json document = Document();
  document["model"]["merges"] = json::array(
      {json::array({"t", "h"}), json::array({"th", "e"})});
  EXPECT_THAT(Make(document)->Encode("the"), ElementsAre(257));
}

// What an added token is normalized to is how it is shown, not its name.
TEST(Tokenizer, NormalizedTokensKeepTheirNames) {
  json document = Document();
  document["normalizer"] = {{"type", "Lowercase"}};
  document["added_tokens"].push_back(
      {{"id", 264}, {"content", "THE"}, {"normalized", true}});
  document["added_tokens"].push_back(
      {{"id", 265}, {"content", "XY"}, {"normalized", true}});
  const auto t = Make(document);
  EXPECT_EQ(t->IdOf("THE"), 264);
  EXPECT_EQ(t->IdOf("the"), 257);
  EXPECT_EQ(t->IdOf("XY"), 265);
  EXPECT_EQ(t->IdOf("xy"), -1);
  EXPECT_EQ(t->TokenBytes(265), "xy");
}

TEST(Tokenizer, EncodesTheSameFromManyThreads) {
  const auto t = Make();
  std::string text;
  for (int i = 0; i < 3000; ++i) {
    text += " the he<|end|>" + std::to_string(i * 7919);
  }
  const std::vector<int32_t> want = Make()->Encode(text);
  std::vector<std::vector<int32_t>> got(4);
  std::vector<std::thread> threads;
  for (auto& ids : got) {
    threads.emplace_back([&] { ids = t->Encode(text); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& ids : got) EXPECT_EQ(ids, want);
}

TEST(Tokenizer, RefusesPartsByName) {
  const auto with = [](const char* pointer, const json& value) {
    json document = Document();
    document[json::json_pointer(pointer)] = value;
    return Refusal(document);
  };
  EXPECT_THAT(with("/model/type", "Unigram"),
              HasSubstr("model] got \"Unigram"));
  EXPECT_THAT(with("/model/byte_fallback", true), HasSubstr("byte_fallback"));
  EXPECT_THAT(with("/model/dropout", 0.1), HasSubstr("model.dropout"));
  EXPECT_THAT(with("/model/end_of_word_suffix", "</w>"),
              HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(with("/model/continuing_subword_prefix", "##"),
              HasSubstr("continuing_subword_prefix"));
  EXPECT_THAT(with("/model/novel", 1), HasSubstr("key \"novel\""));
  EXPECT_THAT(with("/novel", 1), HasSubstr("key \"novel\""));
  EXPECT_THAT(with("/truncation", 5), HasSubstr("truncation"));
  EXPECT_THAT(with("/padding", 5), HasSubstr("padding"));
  EXPECT_THAT(with("/normalizer", {{"type", "NFKC"}}),
              HasSubstr("normalizer] got \"NFKC\""));
  EXPECT_THAT(with("/decoder/type", "Metaspace"), HasSubstr("decoder"));
  EXPECT_THAT(with("/model/unk_token", "nothing"), HasSubstr("unk_token"));
  EXPECT_THAT(with("/model/vocab", json::object()), HasSubstr("model.vocab"));
  EXPECT_THAT(with("/model/vocab/xx", 5), HasSubstr("id 5 for"));
  EXPECT_THAT(with("/model/vocab/xx", -5), HasSubstr("model.vocab"));
  EXPECT_THAT(with("/model/vocab/xx", 1 << 22), HasSubstr("below 2^22"));
  EXPECT_THAT(with("/model/vocab/xx", "5"), HasSubstr("model.vocab"));
  EXPECT_THAT(with("/model/merges", json::object()), HasSubstr("merges"));
  EXPECT_THAT(with("/model/merges/0", "q z"), HasSubstr("model.merges 0"));
  EXPECT_THAT(with("/model/merges/0", "qz"), HasSubstr("a space between"));
  EXPECT_THAT(with("/model/merges/0", 3), HasSubstr("neither text nor"));
  EXPECT_THAT(with("/added_tokens/0/id", "x"), HasSubstr("added_tokens"));
  EXPECT_THAT(with("/added_tokens/0/id", 5), HasSubstr("id 5 for"));
  EXPECT_THAT(with("/added_tokens/0/content", ""), HasSubstr("0 bytes"));
  EXPECT_THAT(with("/added_tokens/0/content", "the"),
              HasSubstr("\"the\" with id 260, want 257"));
  EXPECT_THAT(with("/added_tokens/0/content", "<|endoftext|>"),
              HasSubstr("twice"));
  EXPECT_THAT(with("/model/vocab/xx", 1 << 20), HasSubstr("few holes"));
  EXPECT_THAT(with("/added_tokens/0/id", 1 << 20), HasSubstr("few holes"));
  EXPECT_THAT(with("/added_tokens/0/special", 1), HasSubstr("special"));
}

TEST(Tokenizer, RefusesMalformedDocuments) {
  const auto parse = [](const std::string& text) {
    const auto tokenizer = Tokenizer::Parse(text);
    EXPECT_FALSE(tokenizer.ok());
    return std::string(tokenizer.status().message());
  };
  EXPECT_THAT(parse(""), HasSubstr("[tokenizer.json] got malformed JSON"));
  EXPECT_THAT(parse("[]"), HasSubstr("no object"));
  EXPECT_THAT(parse("{\"model\": 1, \"model\": 2}"),
              HasSubstr("key \"model\" twice"));
  EXPECT_THAT(parse("{\"pre_tokenizer\": {\"type\": \"ByteLevel\"}, \"model\": "
                    "{\"vocab\": {\"a\": 0, \"a\": 1}, \"merges\": []}}"),
              HasSubstr("key \"a\" twice in one object"));
  EXPECT_THAT(parse(std::string(1000, '[')), HasSubstr("deeper than 64"));
  EXPECT_THAT(parse(std::string((64 << 20) + 1, ' ')), HasSubstr("at most"));
  const std::string whole = Document().dump();
  for (size_t n = 0; n < whole.size(); n += 97) parse(whole.substr(0, n));
}

TEST(TokenizerTrain, IsDeterministicAndRoundTrips) {
  const std::vector<std::string> documents = {
      "the cat sat on the mat, the cat's hat", "don't they'll 123 1234  \n\n",
      "\xFF\xFE bytes", "\xE4\xBD\xA0\xE5\xA5\xBD \xE4\xBD\xA0\xE5\xA5\xBD"};
  TokenizerTrainOptions options;
  options.vocabulary = 280;
  const std::string json_text = *TrainTokenizer(documents, options);
  EXPECT_EQ(*TrainTokenizer(documents, options), json_text);
  const auto t = Tokenizer::Parse(json_text);
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_EQ((*t)->IdOf("<|endoftext|>"), 0);
  EXPECT_EQ((*t)->IdOf("<|padding|>"), 1);
  EXPECT_LE((*t)->vocabulary(), 280);
  for (const std::string& d : documents) {
    EXPECT_EQ((*t)->Decode((*t)->Encode(d)), d);
  }
  EXPECT_EQ((*t)->Encode("the").size(), 1u);
}

TEST(TokenizerTrain, TiesGoToTheLowerPair) {
  TokenizerTrainOptions options;
  options.specials = {};
  options.vocabulary = 258;
  // "ab" and "cd" are equally frequent; a < c.
  const json j = json::parse(*TrainTokenizer({"cd ab cd ab"}, options));
  EXPECT_EQ(j["model"]["merges"][0], "a b");
  EXPECT_EQ(j["model"]["vocab"].size(), 258u);
}

TEST(TokenizerTrain, PlainTextNeverBecomesASpecialToken) {
  TokenizerTrainOptions options;
  options.specials = {"ab"};
  options.vocabulary = 300;
  const auto text = TrainTokenizer({"ab ab ab abab abab"}, options);
  ASSERT_TRUE(text.ok());
  const json j = json::parse(*text);
  for (const json& merge : j["model"]["merges"]) EXPECT_NE(merge, "a b");
  EXPECT_TRUE(Tokenizer::Parse(*text).ok());
}

TEST(TokenizerTrain, StopsOnRequestAndChecksItsOptions) {
  TokenizerTrainOptions options;
  options.progress = [](double) { return false; };
  EXPECT_EQ(TrainTokenizer({"a"}, options).status().code(),
            absl::StatusCode::kCancelled);
  options = {};
  options.vocabulary = 257;
  EXPECT_FALSE(TrainTokenizer({}, options).ok());
  options.vocabulary = 4096;
  for (const char* special : {"", "x", "\xFF\xFF"}) {
    options.specials = {special};
    EXPECT_FALSE(TrainTokenizer({}, options).ok()) << special;
  }
  options.specials = {"<a>", "<a>"};
  EXPECT_FALSE(TrainTokenizer({}, options).ok());
  options.specials = {"<a>"};
  const auto empty = TrainTokenizer({}, options);
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ((*Tokenizer::Parse(*empty))->vocabulary(), 257);
}

TEST(TokenizerTrain, WordPieceHasWordsPiecesAndBertsSpecials) {
  TokenizerTrainOptions options;
  options.wordpiece = true;
  options.vocabulary = 300;
  const std::vector<std::string> documents = {
      "The playing, the played; the player's play.", "Play \xC3\xA9t\xC3\xA9",
      "playing and played: a play", "\xFF broken"};
  const std::string text = *TrainTokenizer(documents, options);
  EXPECT_EQ(*TrainTokenizer(documents, options), text);
  const auto t = Tokenizer::Parse(text);
  ASSERT_TRUE(t.ok()) << t.status();
  const char* const specials[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  for (int32_t id = 0; id < 5; ++id) {
    EXPECT_EQ((*t)->IdOf(specials[id]), id);
  }
  const int32_t play = (*t)->IdOf("play"), the = (*t)->IdOf("the");
  EXPECT_GE(play, 5);
  EXPECT_GE(the, 5);
  EXPECT_EQ((*t)->IdOf("Play"), -1);  // lower-cased
  EXPECT_EQ((*t)->IdOf("##play"), -1);  // never seen inside a word
  // The same word wherever it stands; accents gone; unseen characters.
  EXPECT_EQ((*t)->Encode("play THE play"),
            (std::vector<int32_t>{2, play, the, play, 3}));
  EXPECT_EQ((*t)->Encode("\xC3\xA9t\xC3\xA9"), (*t)->Encode("ete"));
  EXPECT_EQ((*t)->Encode("\xE4\xBD\xA0"), (std::vector<int32_t>{2, 1, 3}));
  EXPECT_EQ((*t)->Decode((*t)->Encode("the played")), "the played");
}

}  // namespace
}  // namespace motet::model
