// SPDX-License-Identifier: Apache-2.0
// Which files become documents, and what of them.
#include "coordinator/text_files.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace motet::coordinator {
namespace {

std::string Lines(int count, const std::string& line = "a line of text\n") {
  std::string text;
  for (int i = 0; i < count; ++i) text += line;
  return text;
}

TEST(TextOfTest, TextIsKeptAsItIs) {
  const std::string text = Lines(10, "sch\u00f6n \u20ac \U0001F3B6\n");
  EXPECT_EQ(TextOf(text, {}), text);
}

TEST(TextOfTest, BytesThatAreNoTextAreNoDocument) {
  const std::string good = Lines(10);
  for (const std::string& bad :
       {std::string(1, '\0'), std::string("\xFF"), std::string("\x80"),
        std::string("\xC0\xAF"), std::string("\xE0\x80\xAF"),
        std::string("\xED\xA0\x80"), std::string("\xF4\x90\x80\x80"),
        std::string("\xE2\x82\n")}) {
    EXPECT_EQ(TextOf(good + bad + good, {}), "");
    EXPECT_EQ(TextOf(good + bad, {}), "");
  }
  EXPECT_EQ(TextOf(good + "\xE2\x82", {}), "");  // ends inside a character
}

TEST(TextOfTest, ShortTextIsNoDocument) {
  EXPECT_EQ(TextOf("", {}), "");
  EXPECT_EQ(TextOf(std::string(63, 'x'), {}), "");
  EXPECT_EQ(TextOf(std::string(64, 'x'), {}), std::string(64, 'x'));
}

TEST(TextOfTest, LongTextIsCutAtALine) {
  const std::string line = "a line of text\n";  // 15 bytes
  TextFileOptions options;
  for (const int max : {75, 80, 89}) {
    options.max_bytes = max;
    EXPECT_EQ(TextOf(Lines(20, line), options), Lines(5, line)) << max;
  }
  options.max_bytes = 90;
  EXPECT_EQ(TextOf(Lines(20, line), options), Lines(6, line));
  options.max_bytes = 300;
  EXPECT_EQ(TextOf(Lines(20, line), options), Lines(20, line));
}

TEST(TextOfTest, OneEndlessLineIsData) {
  TextFileOptions options;
  options.max_bytes = 100;
  EXPECT_EQ(TextOf(std::string(101, 'x'), options), "");
}

TEST(TextOfTest, PodIsWhatStandsBetweenCommands) {
  TextFileOptions options;
  options.pod = true;
  const std::string pod =
      "=head1 NAME\n\nDemo - shows what it shows, at some length\n\n";
  const std::string more = "=pod\n\nThe second part, of some length too\n\n";
  const std::string file = "package Demo;\nmy $x\n= 3;\n" + pod +
                           "=cut\n\nsub f { 1 }\n" + more +
                           "=cut\nsub g { 2 }\n";
  EXPECT_EQ(TextOf(file, options), pod + more);
  EXPECT_EQ(TextOf(Lines(20), options), "");
}

TEST(TextOfTest, PodWithoutCutRunsToTheEnd) {
  TextFileOptions options;
  options.pod = true;
  const std::string pod = "=head1 NAME\n\n" + Lines(5) + "no newline";
  EXPECT_EQ(TextOf("1;\n" + pod, options), pod);
}

TEST(ShuffleByNameTest, DependsOnTheNamesAlone) {
  std::vector<std::string> files;
  for (int i = 0; i < 100; ++i) files.push_back("dir/" + std::to_string(i));
  std::vector<std::string> sorted = files, one = files, two = files;
  std::sort(sorted.begin(), sorted.end());
  std::reverse(two.begin(), two.end());
  ShuffleByName(one);
  ShuffleByName(two);
  EXPECT_EQ(one, two);
  EXPECT_NE(one, sorted);
  std::sort(one.begin(), one.end());
  EXPECT_EQ(one, sorted);
}

}  // namespace
}  // namespace motet::coordinator
