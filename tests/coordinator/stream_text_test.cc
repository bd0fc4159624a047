// SPDX-License-Identifier: Apache-2.0
// Token bytes into text: however a text is cut into tokens, the shown pieces
// are valid UTF-8 and join to what the whole text would show.
#include "coordinator/stream_text.h"

#include "gtest/gtest.h"

namespace motet::coordinator {
namespace {

using Strings = std::vector<std::string>;

constexpr char kBroken[] = "\xEF\xBF\xBD";

// What all pieces show together; each piece must be valid by itself.
std::string Show(const Strings& tokens, const Strings& stops) {
  StreamText text(stops);
  std::string shown;
  for (const std::string& token : tokens) {
    const std::string piece = text.Add(token);
    EXPECT_EQ(piece, ValidUtf8(piece));
    shown += piece;
  }
  return shown + text.Flush();
}

Strings Bytes(const std::string& text) {
  Strings bytes;
  for (const char c : text) bytes.emplace_back(1, c);
  return bytes;
}

TEST(StreamTextTest, CharactersSplitAtEveryByte) {
  const std::string text = "a\u00e9\u20ac\U0001F3B6z";  // 1 to 4 bytes
  for (size_t i = 0; i <= text.size(); ++i) {
    for (size_t j = i; j <= text.size(); ++j) {
      const Strings tokens = {text.substr(0, i), text.substr(i, j - i),
                              text.substr(j)};
      EXPECT_EQ(Show(tokens, {}), text) << i << " " << j;
    }
  }
  EXPECT_EQ(Show(Bytes(text), {}), text);
}

TEST(StreamTextTest, HalfACharacterIsHeldBack) {
  StreamText text({});
  EXPECT_EQ(text.Add("x\xE2\x82"), "x");
  EXPECT_EQ(text.Add("\xAC"), "\u20ac");
  EXPECT_EQ(text.Flush(), "");
}

TEST(StreamTextTest, StopStringSplitAtEveryByte) {
  const std::string text = "one\ntwo END three";
  for (size_t i = 0; i <= text.size(); ++i) {
    EXPECT_EQ(Show({text.substr(0, i), text.substr(i)}, {"END"}), "one\ntwo ")
        << i;
  }
  EXPECT_EQ(Show(Bytes(text), {"END"}), "one\ntwo ");
}

TEST(StreamTextTest, NothingOfAStopIsEverShown) {
  StreamText text({"END"});
  EXPECT_EQ(text.Add("a E"), "a ");
  EXPECT_FALSE(text.stopped());
  EXPECT_EQ(text.Add("N"), "");
  EXPECT_EQ(text.Add("D!"), "");
  EXPECT_TRUE(text.stopped());
  EXPECT_EQ(text.Add("more"), "");
  EXPECT_EQ(text.Flush(), "");
}

TEST(StreamTextTest, AStopThatDoesNotCompleteIsShownLater) {
  StreamText text({"END"});
  EXPECT_EQ(text.Add("EN"), "");
  EXPECT_EQ(text.Add("EN"), "EN");  // the second may still complete
  EXPECT_EQ(text.Add("X"), "ENX");
  EXPECT_EQ(text.Add("E"), "");
  EXPECT_EQ(text.Flush(), "E");
  EXPECT_FALSE(text.stopped());
}

TEST(StreamTextTest, SelfOverlappingStop) {
  EXPECT_EQ(Show(Bytes("aaab rest"), {"aab"}), "a");
  EXPECT_EQ(Show(Bytes("abababc"), {"ababc"}), "ab");
}

TEST(StreamTextTest, SeveralStopsTheEarliestWins) {
  EXPECT_EQ(Show({"one two three"}, {"three", "two"}), "one ");
  EXPECT_EQ(Show(Bytes("one two three"), {"three", "two"}), "one ");
  // One begins inside the other.
  EXPECT_EQ(Show(Bytes("x--y"), {"--->", "--"}), "x");
  EXPECT_EQ(Show(Bytes("x<|a|y"), {"<|end|>", "|a|"}), "x<");
}

TEST(StreamTextTest, StopOfManyByteCharacters) {
  EXPECT_EQ(Show(Bytes("good \u20ac\u20ac bad"), {"\u20ac\u20ac"}), "good ");
  EXPECT_EQ(Show(Bytes("good \u20ac bad"), {"\u20ac\u20ac"}),
            "good \u20ac bad");
}

TEST(StreamTextTest, EmptyStopStopsNothing) {
  EXPECT_EQ(Show({"all of it"}, {""}), "all of it");
}

TEST(StreamTextTest, InvalidBytesAreReplaced) {
  const std::string r = kBroken;
  EXPECT_EQ(Show(Bytes("a\xFF" "b"), {}), "a" + r + "b");
  EXPECT_EQ(Show(Bytes("\xC0\xAF"), {}), r + r);          // overlong
  EXPECT_EQ(Show(Bytes("\xED\xA0\x80"), {}), r + r + r);  // surrogate
  EXPECT_EQ(Show(Bytes("\xF4\x90\x80\x80"), {}), r + r + r + r);
  EXPECT_EQ(Show(Bytes("\xE2\x82" "a"), {}), r + r + "a");
  EXPECT_EQ(Show(Bytes("\x80"), {}), r);
}

TEST(StreamTextTest, FlushReplacesTheHalfCharacter) {
  StreamText text({});
  EXPECT_EQ(text.Add("x\xF0\x9F"), "x");
  EXPECT_EQ(text.Flush(), std::string(kBroken) + kBroken);
  EXPECT_EQ(text.Flush(), "");
}

TEST(ValidUtf8Test, KeepsTheEdgesOfTheRange) {
  for (const std::string& good :
       {std::string(), std::string(1, '\0'), std::string("\x7F\u0080\u07FF"),
        std::string("\u0800\uD7FF\uE000\uFFFF\U00010000\U0010FFFF")}) {
    EXPECT_EQ(ValidUtf8(good), good);
  }
}

}  // namespace
}  // namespace motet::coordinator
