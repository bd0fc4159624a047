// SPDX-License-Identifier: Apache-2.0
// What the commands of motet-node share. A command is one file: it adds a
// sub-command with its options and leaves its status in the context. Results
// go to stdout (text or JSON), talk and progress to stderr.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace CLI {
class App;
}

namespace motet::node {

struct Context {
  std::string dir = ".";  // --dir, MOTET_NODE_DIR
  bool json = false;      // -o json
  absl::Status status;    // left by the command that ran
};

// Makes `fn` the action of `command`, which gets --dir.
void SetAction(CLI::App* command, Context& context,
               std::function<absl::Status()> fn);
// -o text|json.
void AddOutput(CLI::App* command, Context& context);

// The table of commands: each adds itself.
using AddCommand = void (*)(CLI::App& app, Context& context);
void AddInit(CLI::App& app, Context& context);
void AddJoin(CLI::App& app, Context& context);
void AddCorpus(CLI::App& app, Context& context);
void AddRun(CLI::App& app, Context& context);
void AddJobs(CLI::App& app, Context& context);

// Columns padded to equal width, two spaces between.
std::string Table(const std::vector<std::vector<std::string>>& rows);

}  // namespace motet::node
