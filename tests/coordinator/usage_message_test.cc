// SPDX-License-Identifier: Apache-2.0
// Every kind of complaint that the command-line library makes of our options,
// as it makes it, and in our words.
#include "coordinator/usage_message.h"

#include <CLI/CLI.hpp>

#include "gtest/gtest.h"

namespace motet::coordinator {
namespace {

std::string Complaint(const std::vector<std::string>& arguments) {
  CLI::App app;
  std::string output, prompt, data, model;
  int threads = 0;
  int64_t count = 0;
  double positive = 1;
  app.add_option("-o,--output", output)
      ->check(CLI::IsMember({"text", "json"}));
  app.add_option("--threads", threads)->check(CLI::Range(0, 64));
  app.add_option("--count", count)->check(CLI::NonNegativeNumber);
  app.add_option("--positive", positive)->check(CLI::PositiveNumber);
  CLI::Option* given = app.add_option("--prompt", prompt);
  app.add_option("--data", data)->excludes(given);
  app.add_option("model", model)->required();
  // The library takes them from the back.
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    return UsageMessage("motet serve", error.get_name(), error.what());
  }
  return "no complaint";
}

TEST(UsageMessageTest, OurWords) {
  EXPECT_EQ(Complaint({"m", "-o", "xml"}),
            "[--output] got xml, want one of text, json");
  EXPECT_EQ(Complaint({"m", "--threads", "65"}),
            "[--threads] got 65, want 0 to 64");
  EXPECT_EQ(Complaint({"m", "--count", "-1"}),
            "[--count] got -1, want 0 or more");
  EXPECT_EQ(Complaint({"m", "--positive", "0"}),
            "[--positive] got 0, want a number above 0");
  EXPECT_EQ(Complaint({}), "[motet serve] got no model, want it");
  EXPECT_EQ(Complaint({"m", "--colour"}),
            "[motet serve] got \"--colour\", want arguments that it knows");
  EXPECT_EQ(Complaint({"m", "--prompt"}),
            "[--prompt] got no value, want TEXT");
  EXPECT_EQ(Complaint({"m", "--prompt", "a", "--data", "b"}),
            "[--prompt] got --data too, want one of the two");
}

TEST(UsageMessageTest, UnknownOnesAreHandedOn) {
  EXPECT_EQ(UsageMessage("motet", "FileError", "x was not readable"),
            "x was not readable");
}

}  // namespace
}  // namespace motet::coordinator
