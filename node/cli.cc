// SPDX-License-Identifier: Apache-2.0
#include "node/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace motet::node {

void SetAction(CLI::App* command, Context& context,
               std::function<absl::Status()> fn) {
  command->add_option("--dir", context.dir, "The node's folder")
      ->envname("MOTET_NODE_DIR")
      ->capture_default_str();
  command->callback(
      [&context, fn = std::move(fn)] { context.status = fn(); });
}

void AddOutput(CLI::App* command, Context& context) {
  command
      ->add_option_function<std::string>(
          "-o,--output",
          [&context](const std::string& form) {
            context.json = form == "json";
          },
          "Form of the result on stdout: text or json")
      ->check(CLI::IsMember({"text", "json"}));
}

std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> width;
  for (const auto& row : rows) {
    width.resize(std::max(width.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) {
      width[c] = std::max(width[c], row[c].size());
    }
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      absl::StrAppend(&line, row[c],
                      std::string(width[c] - row[c].size() + 2, ' '));
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&out, line, "\n");
  }
  return out;
}

}  // namespace motet::node
