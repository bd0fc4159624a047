// SPDX-License-Identifier: Apache-2.0
// motet-registry: reads its settings, opens the store, serves until SIGTERM or
// SIGINT. Results go to stdout, the log to stderr. Exit codes: 0 success, 1
// failure, 2 usage.
#include <errno.h>
#include <grpc/support/log.h>
#include <signal.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "proto/channel.h"
#include "proto/error.h"
#include "proto/files.h"
#include "registry/config.h"
#include "registry/fault.h"
#include "registry/rocks_store.h"
#include "registry/server.h"

namespace motet::registry {
namespace {

// Chunks of publishes that never ended are kept this long, so that a node that
// comes back after a while sends only what is missing.
constexpr absl::Duration kUnfinishedAge = absl::Hours(7 * 24);
constexpr absl::Duration kCollectEvery = absl::Hours(24);
constexpr absl::Duration kShutdownGrace = absl::Seconds(10);

struct Arguments {
  std::string config_file;
  std::string port_file;
  std::map<std::string, std::string> flags;
};

int Fail(const absl::Status& status) {
  fprintf(stderr, "motet-registry: %s\n",
          std::string(status.message()).c_str());
  return 1;
}

void Collect(Store* store) {
  const absl::StatusOr<int64_t> collected =
      store->Collect(absl::Now() - kUnfinishedAge);
  if (!collected.ok()) {
    spdlog::warn("collecting unfinished publishes: {}",
                 std::string(collected.status().message()));
  } else if (*collected > 0) {
    spdlog::info("collected {} chunks of unfinished publishes", *collected);
  }
}

// The signals that end the service. Blocked before the first thread is made,
// so that they arrive here and nowhere else.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // Writing past a limit on file sizes is an error to report, not to die of.
  signal(SIGXFSZ, SIG_IGN);
  return signals;
}

absl::Status Run(const Arguments& arguments) {
  const sigset_t signals = BlockSignals();
  MOTET_ASSIGN_OR_RETURN(const Config config,
                         LoadConfig(arguments.config_file, arguments.flags));
  if (!FaultVariable().empty()) {
    spdlog::warn("MOTET_FAULT={}: this process will kill itself there",
                 std::string(FaultVariable()));
  }
  MOTET_ASSIGN_OR_RETURN(std::shared_ptr<Store> store,
                         OpenRocksStore(config.at("data")));
  Collect(store.get());
  MOTET_ASSIGN_OR_RETURN(const std::unique_ptr<Server> server,
                         Server::Start(config.server_options(), store));
  if (!arguments.port_file.empty()) {
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(
        arguments.port_file, absl::StrCat(server->port(), "\n")));
  }
  printf("motet-registry: serving %s on %s\n", config.at("federation").c_str(),
         server->address().c_str());
  fflush(stdout);

  const timespec wait = absl::ToTimespec(kCollectEvery);
  int signal = -1;
  while (signal < 0) {
    signal = sigtimedwait(&signals, nullptr, &wait);
    if (signal < 0 && errno == EAGAIN) Collect(store.get());
  }
  spdlog::info("{}: finishing calls under way", strsignal(signal));
  server->Shutdown(kShutdownGrace);
  return absl::OkStatus();
}

// Everything that can be wrong before a port is opened or a folder touched.
absl::Status Check(const Arguments& arguments) {
  MOTET_ASSIGN_OR_RETURN(const Config config,
                         LoadConfig(arguments.config_file, arguments.flags));
  for (const Setting& setting : Settings()) {
    const Value& value = config.values.at(setting.key);
    printf("%-12s %-40s (%s)\n", setting.key, value.text.c_str(),
           value.source.c_str());
  }
  return CheckServerOptions(config.server_options());
}

void AddSettings(CLI::App* command, Arguments* arguments) {
  command->add_option("--config", arguments->config_file,
                      "TOML file with the settings below");
  for (const Setting& setting : Settings()) {
    const std::string key = setting.key;
    command->add_option_function<std::string>(
        FlagName(key),
        [arguments, key](const std::string& value) {
          arguments->flags[key] = value;
        },
        setting.default_value == nullptr
            ? setting.help
            : absl::StrCat(setting.help, " [", setting.default_value, "]"));
  }
}

// gRPC's own remarks (a client without a certificate, say) in our log's form.
void LogGrpc(gpr_log_func_args* remark) {
  if (remark->severity == GPR_LOG_SEVERITY_ERROR) {
    spdlog::warn("grpc: {}", remark->message);
  }
}

int Main(int argc, char** argv) {
  gpr_set_log_function(LogGrpc);
  spdlog::set_default_logger(spdlog::stderr_color_mt("motet-registry"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %n %l %v",
                      spdlog::pattern_time_type::utc);
  Arguments arguments;
  CLI::App app(
      "motet-registry: the federation's store of signed packages.\n"
      "Nodes publish to it and the coordinator fetches from it, over mutual "
      "TLS only.",
      "motet-registry");
  app.set_version_flag("--version", "motet-registry " MOTET_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Each setting is taken from its flag, else from the environment\n"
      "(MOTET_REGISTRY_ADDRESS ...), else from the file, else its default.\n"
      "Exit codes: 0 success, 1 failure, 2 usage.");
  CLI::App* run = app.add_subcommand(
      "run", "Serve until SIGTERM or ctrl-C, then finish calls and exit 0");
  AddSettings(run, &arguments);
  run->add_option("--port-file", arguments.port_file,
                  "write the port number to this file once serving");
  CLI::App* check =
      app.add_subcommand("check",
                         "Show the settings and where each comes from; check "
                         "certificate, key and authority");
  AddSettings(check, &arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : 2;
  }
  const absl::Status status = run->parsed() ? Run(arguments) : Check(arguments);
  if (!status.ok()) return Fail(status);
  if (check->parsed()) printf("settings are good\n");
  return 0;
}

}  // namespace
}  // namespace motet::registry

int main(int argc, char** argv) { return motet::registry::Main(argc, argv); }
