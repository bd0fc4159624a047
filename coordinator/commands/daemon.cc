// SPDX-License-Identifier: Apache-2.0
// motet daemon run: the coordinator's daemon, to which nodes dial.
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/cli.h"
#include "coordinator/federation.h"
#include "coordinator/federation_service.h"
#include "proto/channel.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string address;
  std::string port_file;
};

absl::Status Run(const Options& options, const Context& context) {
  // Blocked before any thread starts, so that sigwait below gets them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  MOTET_ASSIGN_OR_RETURN(Federation federation,
                         OpenFederation(context.federation));
  MOTET_ASSIGN_OR_RETURN(proto::FileLock lock,
                         proto::FileLock::Take(federation.Path("jobs/LOCK"),
                                               "the coordinator's daemon"));
  MOTET_ASSIGN_OR_RETURN(std::unique_ptr<JobStore> store,
                         JobStore::Open(federation.Path("jobs")));
  MOTET_ASSIGN_OR_RETURN(auto credentials, proto::ServerTls(federation.tls));
  FederationService service(federation.name, *store);
  const std::string address = options.address.empty()
                                  ? federation.coordinator_address
                                  : options.address;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, credentials, &port);
  builder.RegisterService(&service);
  proto::ConfigureServer(builder);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return proto::Error(absl::StatusCode::kUnavailable, "daemon",
                        absl::StrCat("address ", address, ", not free"),
                        "an address to listen on",
                        "stop what listens there, or change `coordinator` in "
                        "motet.toml");
  }
  const std::string bound =
      absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
  if (!options.port_file.empty()) {
    MOTET_RETURN_IF_ERROR(
        proto::WriteFileAtomic(options.port_file, bound + "\n"));
  }
  absl::FPrintF(stderr, "motet daemon: serving %s on %s\n", federation.name,
                bound);
  int signal = 0;
  sigwait(&signals, &signal);
  absl::FPrintF(stderr, "motet daemon: stopping\n");
  service.Stop();
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return absl::OkStatus();
}

}  // namespace

void AddDaemon(CLI::App& app, Context& context) {
  CLI::App* noun =
      Noun(app, "daemon", "The coordinator's daemon, to which nodes dial");
  auto options = std::make_shared<Options>();
  CLI::App* command = noun->add_subcommand(
      "run", "Offer training plans to nodes and collect their progress; runs "
             "until SIGINT or SIGTERM");
  command->add_option("--address", options->address,
                      "HOST:PORT, instead of motet.toml's; port 0 = any");
  command->add_option("--port-file", options->port_file,
                      "Write HOST:PORT here once ready");
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
