// SPDX-License-Identifier: Apache-2.0
// `motet`: the coordinator's command line. Parses, runs one command, maps its
// status to an exit code. Each command is one file in commands/.
#include <signal.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/math/operators.h"
#include "compose/math/threads.h"
#include "coordinator/cli.h"
#include "coordinator/commands/retrieval_parts.h"
#include "coordinator/usage_message.h"

namespace {

using motet::coordinator::AddCommand;

constexpr AddCommand kCommands[] = {
    motet::coordinator::AddInit,    motet::coordinator::AddMember,
    motet::coordinator::AddCorpus,  motet::coordinator::AddBase,
    motet::coordinator::AddTokenize,
    motet::coordinator::AddDaemon,  motet::coordinator::AddTrain,
    motet::coordinator::AddExpert,  motet::coordinator::AddCompose,
    motet::coordinator::AddEval,    motet::coordinator::AddServe,
    motet::coordinator::AddGenerate, motet::coordinator::AddModel,
    motet::coordinator::AddIndex,   motet::coordinator::AddSearch,
    motet::coordinator::AddAdapter, motet::coordinator::AddEncoder,
};

std::string CommandName(const CLI::App& app) {
  std::string name;
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().front();
    name += (name.empty() ? "" : " ") + at->get_name();
  }
  return name;
}

// A wrong command line, in the form of every other error. CLI11 says "A
// subcommand is required" of a mistyped one; this names it and its choices.
// The other messages are UsageMessage's.
std::string WrongUsage(const CLI::App* app, const CLI::Error& error) {
  const CLI::App* at = app;
  std::string path = "motet";
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().front();
    absl::StrAppend(&path, " ", at->get_name());
  }
  const std::vector<const CLI::App*> choices =
      at->get_subcommands([](const CLI::App*) { return true; });
  std::string text =
      motet::coordinator::UsageMessage(path, error.get_name(), error.what());
  if (error.get_name() == "RequiredError" && !choices.empty()) {
    const std::vector<std::string> rest = app->remaining(true);
    std::vector<std::string> names;
    for (const CLI::App* sub : choices) names.push_back(sub->get_name());
    text = absl::StrCat(
        "[", path, "] got ",
        rest.empty() ? "no command" : absl::StrCat("\"", rest.front(), "\""),
        ", want one of ", absl::StrJoin(names, ", "));
  }
  return absl::StrCat("motet: ", text, "; see `", path, " --help`\n");
}

}  // namespace

int main(int argc, char** argv) {
  motet::math::SleepWhileWaiting(argv);
  signal(SIGPIPE, SIG_IGN);
  // gRPC's own log would stand between a user and our messages.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  const auto start = std::chrono::steady_clock::now();
  motet::coordinator::Context context;
  CLI::App app{
      "Motet composes experts that owners trained apart into one "
      "mixture-of-experts model, and answers every query with exactly the "
      "experts that the query may use.\n\n"
      "A first walk: examples/quickstart/run.sh. The order of work:\n"
      "  init, member approve      a federation and its members\n"
      "  base train or import      the public model all start from\n"
      "  daemon run, train offer   owners' nodes train behind their doors\n"
      "  compose plan, apply       one model out of signed packages\n"
      "  eval matrix, serve        measure it, answer with it\n\n"
      "One model, no federation: serve, generate and eval perplexity, matrix, "
      "choice\nand routing take any Hugging Face model directory. Documents: index "
      "build, search\nand eval retrieval take any BERT encoder's.\n\n"
      "Exit codes: 0 success, 1 failure, 2 usage, 130 interrupted.\n",
      "motet"};
  app.set_version_flag("--version", "motet " MOTET_VERSION);
  app.failure_message(WrongUsage);
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--federation", context.federation,
                 "The federation's folder, made by `motet init`")
      ->envname("MOTET_FEDERATION")
      ->capture_default_str();
  std::string output = "text";
  app.add_option("-o,--output", output, "Results as text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  int threads = 0;
  app.add_option("--threads", threads,
                 "Threads for arithmetic; 0 = one a core")
      ->envname("MOTET_THREADS")
      ->check(CLI::Range(0, 1024));
  std::string usage_file;
  app.add_option("--usage-file", usage_file,
                 "Append this command's seconds and peak memory as a line of "
                 "JSON");
  // Both are read by the commands when they run, after all options are.
  app.parse_complete_callback([&] {
    context.json = output == "json";
    if (threads > 0) motet::math::SetThreads(threads);
  });
  for (AddCommand add : kCommands) add(app, context);
  for (CLI::App* sub : app.get_subcommands({})) sub->fallthrough();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e);
    return code == 0 ? 0 : 2;
  }
  if (!usage_file.empty()) {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    std::ofstream(usage_file, std::ios::app) << absl::StrFormat(
        "{\"command\": \"%s\", \"seconds\": %.3f, \"peak_rss_mib\": %.1f}\n",
        CommandName(app),
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count(),
        usage.ru_maxrss / 1024.0);
  }
  if (!context.status.ok()) {
    absl::FPrintF(stderr, "motet: %s\n",
                  std::string(context.status.message()));
  }
  return motet::coordinator::ExitCode(context.status);
}
