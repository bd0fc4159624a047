// SPDX-License-Identifier: Apache-2.0
// motet serve: a model directory or a composition behind OpenAI's HTTP
// interface.
#include <signal.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/arithmetic.h"
#include "coordinator/cli.h"
#include "coordinator/commands/served.h"
#include "coordinator/engine.h"
#include "coordinator/http/front.h"
#include "coordinator/http/server.h"
#include "coordinator/policy.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

struct Options {
  ServedOptions served;
  std::string port_file;
  HttpOptions http;
  EngineOptions engine;
};

absl::Status Run(const Options& options, const Context& context) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  MOTET_ASSIGN_OR_RETURN(const Served served,
                         OpenServed(options.served, context));
  const PolicyGate gate(*served.model, served.revoked);
  Engine engine(*served.model, options.engine);
  Front front(*served.model, gate, engine);
  if (!absl::StartsWith(options.http.address, "127.") &&
      !absl::StartsWith(options.http.address, "[::1]")) {
    absl::FPrintF(stderr,
                  "motet serve: %s is not loopback and HTTP has no "
                  "authentication yet: put a gateway in front\n",
                  options.http.address);
  }
  MOTET_ASSIGN_OR_RETURN(
      std::unique_ptr<HttpServer> server,
      HttpServer::Start(options.http,
                        [&](const HttpRequest& request, HttpReply& reply) {
                          front.Handle(request, reply);
                        }));
  if (!options.port_file.empty()) {
    MOTET_RETURN_IF_ERROR(
        proto::WriteFileAtomic(options.port_file, server->address() + "\n"));
  }
  const assemble::ServedModel& model = *served.model;
  absl::FPrintF(
      stderr, "motet serve: %s (%s) on http://%s\n", model.name,
      model.decoder == nullptr
          ? absl::StrCat("ensemble, models ",
                         absl::StrJoin(model.Names(model.All()), ", "))
      : served.router.empty()
          ? "dense"
          : absl::StrCat(served.router, " router, experts ",
                         absl::StrJoin(model.Names(model.All()), ", ")),
      server->address());
  int signal = 0;
  sigwait(&signals, &signal);
  absl::FPrintF(stderr, "motet serve: draining\n");
  server->Drain(10);
  return absl::OkStatus();
}

}  // namespace

void AddServe(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "serve", "Serve a model directory or a composition over HTTP, "
               "OpenAI-compatible: /v1/completions and /v1/models, with "
               "`experts: {include, exclude}` and `purpose`");
  AddServedOptions(*command, options->served);
  command->add_option("--name", options->served.name,
                      "What clients call it, instead of its own name");
  command->add_option("--address", options->http.address,
                      "HOST:PORT; port 0 = any")
      ->capture_default_str();
  command->add_option("--port-file", options->port_file,
                      "Write HOST:PORT here once ready");
  command->add_option("--max-waiting", options->engine.max_waiting,
                      "Requests in the queue before 429")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--max-connections", options->http.max_connections,
                      "Open connections before 429")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  AddArithmeticOption(*command, options->engine.product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
