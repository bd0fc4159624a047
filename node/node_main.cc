// SPDX-License-Identifier: Apache-2.0
// motet-node: an owner's node. It trains experts where the text lies and
// publishes them; the text never leaves. Exit codes: 0 success, 1 failure,
// 2 usage.
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "absl/strings/str_format.h"
#include "compose/math/threads.h"
#include "node/cli.h"

namespace {

constexpr motet::node::AddCommand kCommands[] = {
    motet::node::AddInit, motet::node::AddJoin, motet::node::AddCorpus,
    motet::node::AddRun, motet::node::AddJobs};

int Main(int argc, char** argv) {
  spdlog::set_default_logger(spdlog::stderr_color_mt("motet-node"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%SZ motet-node: %^%v%$",
                      spdlog::pattern_time_type::utc);
  CLI::App app(
      "Trains experts where an owner's text lies, under the owner's consent,\n"
      "and publishes them, signed, to the federation's registry. The text\n"
      "never leaves the node's folder. Guide: docs/node.md.",
      "motet-node");
  app.set_version_flag("--version", "motet-node " MOTET_VERSION);
  app.require_subcommand(1);
  motet::node::Context context;
  for (const auto add : kCommands) add(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e);
    if (code == 0) return 0;
    const std::vector<std::string> rest = app.remaining(true);
    if (e.get_name() == "RequiredError" && !rest.empty()) {
      absl::FPrintF(stderr, "motet-node: no command \"%s\"\n", rest.front());
    }
    return 2;
  }
  if (!context.status.ok()) {
    absl::FPrintF(stderr, "motet-node: %s\n",
                  std::string(context.status.message()));
    return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  motet::math::SleepWhileWaiting(argv);
  try {
    return Main(argc, argv);
  } catch (const std::exception& e) {  // of libraries; ours has none
    std::fprintf(stderr, "motet-node: %s\n", e.what());
    return 1;
  }
}
