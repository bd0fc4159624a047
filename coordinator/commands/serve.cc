// SPDX-License-Identifier: Apache-2.0
// motet serve: a composition behind OpenAI's HTTP interface.
#include <signal.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/composition.h"
#include "coordinator/cli.h"
#include "coordinator/engine.h"
#include "coordinator/federation.h"
#include "coordinator/http/front.h"
#include "coordinator/http/server.h"
#include "coordinator/policy.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"
#include "registry/client.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string name;
  std::string router;
  std::string port_file;
  bool offline = false;
  HttpOptions http;
  EngineOptions engine;
};

absl::Status Run(const Options& options, const Context& context) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  MOTET_ASSIGN_OR_RETURN(Federation federation,
                         OpenFederation(context.federation));
  const std::string path =
      federation.Path(absl::StrCat("compositions/", options.name,
                                   "/motet.lock"));
  if (!proto::Exists(path)) {
    return proto::Error(absl::StatusCode::kNotFound, "serve",
                        absl::StrCat("no composition \"", options.name, "\""),
                        "one that `motet compose apply` made",
                        "check the name, or make it from a recipe");
  }
  MOTET_ASSIGN_OR_RETURN(std::string text,
                         proto::ReadFile(path, proto::kMaxManifestBytes));
  MOTET_ASSIGN_OR_RETURN(v1::CompositionLock lock,
                         assemble::ParseLock(text, path));
  MOTET_ASSIGN_OR_RETURN(
      auto client,
      registry::Client::Make(federation.registry_address, federation.tls));
  std::set<std::string> revoked;
  if (!options.offline) {
    for (const auto& expert : lock.experts()) {
      auto record = client->Inspect(expert.manifest_sha256());
      if (!record.ok()) {
        return proto::Error(
            absl::StatusCode::kUnavailable, "serve",
            absl::StrCat("no word from the registry on ", expert.id(), " (",
                         std::string(record.status().message()), ")"),
            "to know that no expert is revoked",
            "start the registry, or use --offline to serve on what was known");
      }
      if (record->revoked()) revoked.insert(expert.manifest_sha256());
    }
  }
  MOTET_ASSIGN_OR_RETURN(
      std::unique_ptr<assemble::Composition> composition,
      assemble::LoadComposition(
          lock,
          [&](const std::string& sha256) {
            return LocalPackage(federation, *client, sha256);
          },
          {.all = true, .only = {}, .router = options.router}));
  const PolicyGate gate(*composition, revoked);
  Engine engine(*composition, options.engine);
  Front front(*composition, gate, engine);
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
  absl::FPrintF(stderr, "motet serve: %s (%s router, experts %s) on http://%s\n",
                lock.name(),
                options.router.empty() ? lock.router().kind() : options.router,
                absl::StrJoin(composition->Names(composition->All()), ", "),
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
      "serve", "Serve a composition over HTTP, OpenAI-compatible: "
               "/v1/completions and /v1/models, with `experts: {include, "
               "exclude}` and `purpose`");
  command->add_option("name", options->name, "The composition")->required();
  command->add_option("--address", options->http.address,
                      "HOST:PORT; port 0 = any")
      ->capture_default_str();
  command->add_option("--router", options->router,
                      "anchored or topk, instead of the lock's")
      ->check(CLI::IsMember({"anchored", "topk"}));
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
  command->add_flag("--offline", options->offline,
                    "Start without asking the registry about revocations");
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
