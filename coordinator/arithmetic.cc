// SPDX-License-Identifier: Apache-2.0
#include "coordinator/arithmetic.h"

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace motet::coordinator {
namespace {

// The words that users say, in one table.
struct Arithmetic {
  const char* name;
  math::Product product;
};
constexpr Arithmetic kArithmetics[] = {
    {"f32", math::Product::kExact},
    {"bf16", math::Product::kBf16},
};

std::string Refusal(const std::string& given) {
  if (given != "bf16" || math::HasBf16()) return "";
  return absl::StrCat(
      "got bf16, want a processor with bf16 instructions in use (this is ",
      math::InstructionSet(), "); use f32");
}

}  // namespace

void AddArithmeticOption(CLI::App& command, math::Product& product) {
  std::vector<std::string> names;
  for (const Arithmetic& one : kArithmetics) names.push_back(one.name);
  std::function<void(const std::string&)> take =
      [&product](const std::string& given) {
        for (const Arithmetic& one : kArithmetics) {
          if (given == one.name) product = one.product;
        }
      };
  command
      .add_option_function<std::string>(
          "--arithmetic", take,
          "f32, or bf16: products round both operands to bf16, where the "
          "processor can")
      ->check(CLI::IsMember(names))
      ->check(CLI::Validator(Refusal, ""))
      ->default_str(kArithmetics[0].name);
}

}  // namespace motet::coordinator
