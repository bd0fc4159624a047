// SPDX-License-Identifier: Apache-2.0
// Expected texts are those of the stock `tokenizers` library 0.23.
#include "compose/model/normalizer.h"

#include "compose/model/unicode.h"
#include "compose/model/unicode_data.h"
#include "compose/model/unicode_normal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace motet::model {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

std::string Normal(const json& part, std::string text) {
  const auto normalizer = Normalizer::Parse(part);
  EXPECT_TRUE(normalizer.ok()) << normalizer.status();
  if (!normalizer.ok()) return "";
  normalizer->Normalize(text);
  return text;
}
std::string Refusal(const json& part) {
  const auto normalizer = Normalizer::Parse(part);
  return normalizer.ok() ? "" : std::string(normalizer.status().message());
}
json Bert(bool clean, bool chinese, const json& accents, bool lower) {
  return {{"type", "BertNormalizer"},
          {"clean_text", clean},
          {"handle_chinese_chars", chinese},
          {"strip_accents", accents},
          {"lowercase", lower}};
}
const json kNfc = {{"type", "NFC"}};
const json kNfd = {{"type", "NFD"}};
const json kLower = {{"type", "Lowercase"}};

TEST(Normalizer, ComposesAndDecomposes) {
  EXPECT_EQ(Normal(kNfc, "cafe\u0301"), "caf\u00E9");
  EXPECT_EQ(Normal(kNfd, "caf\u00E9"), "cafe\u0301");
  // Marks come into the order of their classes before they join.
  EXPECT_EQ(Normal(kNfc, "q\u0307\u0323"), "q\u0323\u0307");
  EXPECT_EQ(Normal(kNfc, "s\u0307\u0323"), "\u1E69");
  EXPECT_EQ(Normal(kNfc, "a\u0300\u0301"), "\u00E0\u0301");
  // A mark of the same class stands between: no joining across it.
  EXPECT_EQ(Normal(kNfc, "a\u0305\u0301"), "a\u0305\u0301");
  // Hangul, both ways; a lone tail stays.
  EXPECT_EQ(Normal(kNfc, "\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(Normal(kNfd, "\uD55C"), "\u1112\u1161\u11AB");
  EXPECT_EQ(Normal(kNfc, "\uD55C\u11AB"), "\uD55C\u11AB");
  // Singletons and exclusions never come back.
  EXPECT_EQ(Normal(kNfc, "\u2126\u212B\u0958"), "\u03A9\u00C5\u0915\u093C");
  EXPECT_EQ(Normal(kNfc, "\u0344"), "\u0308\u0301");
  EXPECT_EQ(Normal(kNfc, "plain"), "plain");
  EXPECT_EQ(Normal(kNfc, ""), "");
}

TEST(Normalizer, LowersCharacterByCharacter) {
  EXPECT_EQ(Normal(kLower, "ABC\u00C9\u0130\u03A3\u1E9E\U00010400"),
            "abc\u00E9i\u0307\u03C3\u00DF\U00010428");
  EXPECT_EQ(Normal(kLower, "\u039F\u03A3"), "\u03BF\u03C3");
}

TEST(Normalizer, DoesWhatBertDoes) {
  EXPECT_EQ(Normal(Bert(true, true, nullptr, true),
                   "\u00C9lan\t\u4F60x\u0001\u200D\uFFFD!"),
            "elan  \u4F60 x!");
  EXPECT_EQ(Normal(Bert(false, false, false, true), "\u00C9\t"), "\u00E9\t");
  EXPECT_EQ(Normal(Bert(false, false, true, false), "\u00C9\u0323"), "E");
  EXPECT_EQ(Normal(Bert(true, false, nullptr, false), "\u00C9\u3000a"),
            "\u00C9 a");
}

TEST(Normalizer, RunsSequencesInOrder) {
  const json both = {{"type", "Sequence"},
                     {"normalizers", {kNfd, kLower, kNfc}}};
  EXPECT_EQ(Normal(both, "\u00C9"), "\u00E9");
  EXPECT_EQ(Normal({{"type", "Sequence"}, {"normalizers", json::array()}},
                   "\u00C9"),
            "\u00C9");
  EXPECT_EQ(Normal(nullptr, "\u00C9"), "\u00C9");
}

TEST(Normalizer, RefusesByName) {
  EXPECT_THAT(Refusal({{"type", "NFKC"}}), HasSubstr("\"NFKC\""));
  EXPECT_THAT(Refusal({{"type", "Precompiled"}}), HasSubstr("Precompiled"));
  EXPECT_THAT(Refusal({{"type", "NFC"}, {"novel", 1}}), HasSubstr("novel"));
  EXPECT_THAT(Refusal(5), HasSubstr("without type"));
  EXPECT_THAT(Refusal({{"type", "Sequence"}}), HasSubstr("without parts"));
  EXPECT_THAT(Refusal(Bert(true, true, 3, true)), HasSubstr("strip_accents"));
  json deep = kNfc;
  for (int i = 0; i < 20; ++i) {
    deep = {{"type", "Sequence"}, {"normalizers", json::array({deep})}};
  }
  EXPECT_THAT(Refusal(deep), HasSubstr("too deep"));
}

TEST(UnicodeData, KnowsWhatCharactersAre) {
  const UnicodeData& data = UnicodeData::Get();
  EXPECT_TRUE(data.Properties('a') & kLetter);
  EXPECT_TRUE(data.Properties('_') & kWord);
  EXPECT_TRUE(data.Properties(0x0663) & kNumber);
  EXPECT_TRUE(data.Properties(0x3000) & kSpace);
  EXPECT_TRUE(data.Properties(0x323AF) & kLetter);  // Unicode 15
  EXPECT_EQ(data.Properties(0x110000), 0);
  EXPECT_EQ(data.CombiningClass(0x0301), 230);
}

// Whatever the text, composing what was decomposed is composing the text.
TEST(UnicodeNormal, FormsAgree) {
  uint64_t state = 1;
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (int n = 0; n < 12; ++n) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const char32_t r = static_cast<char32_t>(state >> 33);
      const char32_t c = r % 4 == 0   ? 0x300 + r / 4 % 0x70
                         : r % 4 == 1 ? 0x1100 + r / 4 % 0x100
                         : r % 4 == 2 ? 0xAC00 + r / 4 % 11172
                                      : 0x80 + r / 4 % 0x2000;
      AppendUtf8(c, text);
    }
    std::string composed = text, decomposed = text;
    ToNfc(composed);
    ToNfd(decomposed);
    std::string again = decomposed;
    ToNfc(again);
    EXPECT_EQ(again, composed);
    std::string apart = composed;
    ToNfd(apart);
    EXPECT_EQ(apart, decomposed);
  }
}

}  // namespace
}  // namespace motet::model
