// SPDX-License-Identifier: Apache-2.0
#include "coordinator/arithmetic.h"

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

namespace motet::coordinator {
namespace {

// The words that users say, in one table.
struct Arithmetic {
  const char* name;
  math::Product product;
};
constexpr Arithmetic kArithmetics[] = {
    {"f32", math::Product::kExact},
};

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
          "--arithmetic", take, "How products round; f32 is the exact one")
      ->check(CLI::IsMember(names))
      ->default_str(kArithmetics[0].name);
}

}  // namespace motet::coordinator
