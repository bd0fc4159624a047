// SPDX-License-Identifier: Apache-2.0
// motet-node run: the daemon in the foreground, until SIGTERM or SIGINT.
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "node/cli.h"
#include "node/daemon.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::node {
namespace {

struct Options {
  std::optional<int64_t> threads;
  std::optional<std::string> coordinator, registry;
};

absl::Status Run(const Options& options, const Context& context) {
  // Blocked before any thread starts, so that sigwait below gets them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  DaemonOptions daemon_options;
  MOTET_ASSIGN_OR_RETURN(daemon_options.settings, LoadSettings(context.dir));
  Settings& settings = daemon_options.settings;
  if (options.threads) settings.threads = *options.threads;
  if (options.coordinator) {
    MOTET_RETURN_IF_ERROR(
        CheckAddress("--coordinator", *options.coordinator));
    settings.coordinator = *options.coordinator;
  }
  if (options.registry) {
    MOTET_RETURN_IF_ERROR(CheckAddress("--registry", *options.registry));
    settings.registry = *options.registry;
  }
  MOTET_ASSIGN_OR_RETURN(std::unique_ptr<Daemon> daemon,
                         Daemon::Create(daemon_options));
  spdlog::info("{} in {}, dialling the coordinator at {}", settings.Name(),
               context.dir, settings.coordinator);
  daemon->Start();
  int got = 0;
  sigwait(&signals, &got);
  // A second signal ends the process at once: all on disk is whole.
  signal(SIGTERM, [](int) { _exit(130); });
  signal(SIGINT, [](int) { _exit(130); });
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  spdlog::info("stopping; jobs go on at the next start");
  daemon->Stop();
  if (!daemon->Wait()) {
    spdlog::info("stopped");
    std::fflush(nullptr);
    std::_Exit(0);  // what is under way is repeatable and holds no lock
  }
  spdlog::info("stopped");
  return absl::OkStatus();
}

}  // namespace

void AddRun(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand(
      "run", "Dial the coordinator, take plans, and run what the owner "
             "consents to");
  auto options = std::make_shared<Options>();
  command
      ->add_option("--threads", options->threads,
                   "Processor threads of new jobs; 0 = every core "
                   "(MOTET_THREADS)")
      ->check(CLI::Range(0, 1024));
  command->add_option("--coordinator", options->coordinator,
                      "host:port instead of node.toml's (MOTET_COORDINATOR)");
  command->add_option("--registry", options->registry,
                      "host:port instead of node.toml's (MOTET_REGISTRY)");
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::node
