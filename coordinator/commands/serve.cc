// SPDX-License-Identifier: Apache-2.0
// motet serve: a model directory or a composition behind OpenAI's HTTP
// interface; what searches also behind gRPC.
#include <grpcpp/grpcpp.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/arithmetic.h"
#include "coordinator/cli.h"
#include "coordinator/commands/served.h"
#include "coordinator/commands/served_retrieval.h"
#include "coordinator/engine.h"
#include "coordinator/federation.h"
#include "coordinator/http/front.h"
#include "coordinator/http/front_retrieval.h"
#include "coordinator/http/server.h"
#include "coordinator/policy.h"
#include "coordinator/retrieval.h"
#include "coordinator/retrieval_engine.h"
#include "coordinator/retrieval_service.h"
#include "proto/channel.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

struct Options {
  ServedOptions served;
  std::string port_file, grpc_address, grpc_port_file;
  std::vector<std::string> indexes;
  bool conceal_experts = false;
  HttpOptions http;
  EngineOptions engine;
};

// Answers until SIGINT or SIGTERM, which must be blocked. what: the model and
// its kind, for the one line that says it is there.
absl::Status ServeHttp(const Options& options, const std::string& what,
                       const HttpHandler& handler) {
  if (!absl::StartsWith(options.http.address, "127.") &&
      !absl::StartsWith(options.http.address, "[::1]")) {
    absl::FPrintF(stderr,
                  "motet serve: %s is not loopback and HTTP has no "
                  "authentication yet: put a gateway in front\n",
                  options.http.address);
  }
  MOTET_ASSIGN_OR_RETURN(std::unique_ptr<HttpServer> server,
                         HttpServer::Start(options.http, handler));
  if (!options.port_file.empty()) {
    MOTET_RETURN_IF_ERROR(
        proto::WriteFileAtomic(options.port_file, server->address() + "\n"));
  }
  absl::FPrintF(stderr, "motet serve: %s on http://%s\n", what,
                server->address());
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  int signal = 0;
  sigwait(&signals, &signal);
  absl::FPrintF(stderr, "motet serve: draining\n");
  server->Drain(10);
  return absl::OkStatus();
}

absl::Status ServeText(const Options& options, const Context& context) {
  if (!options.indexes.empty() || !options.grpc_address.empty()) {
    return proto::Invalid(
        options.indexes.empty() ? "--grpc-address" : "--index",
        options.served.model,
        "a BERT encoder's folder or a composition of method router_retriever",
        "leave it out");
  }
  MOTET_ASSIGN_OR_RETURN(const Served served,
                         OpenServed(options.served, context));
  const assemble::ServedModel& model = *served.model;
  const PolicyGate gate(model, served.revoked);
  Engine engine(model, options.engine);
  Front front(model, gate, engine);
  const std::string experts = absl::StrJoin(model.Names(model.All()), ", ");
  const std::string kind =
      model.decoder == nullptr ? absl::StrCat("ensemble, models ", experts)
      : served.router.empty()
          ? "dense"
          : absl::StrCat(served.router, " router, experts ", experts);
  return ServeHttp(options, absl::StrCat(model.name, " (", kind, ")"),
                   [&](const HttpRequest& request, HttpReply& reply) {
                     front.Handle(request, reply);
                   });
}

// gRPC beside HTTP, where it was asked for: mTLS, with the federation's
// certificates.
class GrpcSide {
 public:
  ~GrpcSide() {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now() +
                      std::chrono::seconds(5));
    server_->Wait();
  }
  absl::Status Start(const Options& options, const Context& context,
                     const Retrieval& retrieval) {
    if (options.grpc_address.empty()) return absl::OkStatus();
    MOTET_ASSIGN_OR_RETURN(const Federation federation,
                           OpenFederation(context.federation));
    MOTET_ASSIGN_OR_RETURN(auto credentials, proto::ServerTls(federation.tls));
    service_ = std::make_unique<RetrievalService>(federation.name, retrieval);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(options.grpc_address, credentials, &port);
    builder.RegisterService(service_.get());
    proto::ConfigureServer(builder);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return proto::Error(
          absl::StatusCode::kUnavailable, "--grpc-address",
          absl::StrCat(options.grpc_address, ", not free"),
          "an address to listen on", "stop what listens there");
    }
    const std::string& address = options.grpc_address;
    const std::string bound =
        absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
    absl::FPrintF(stderr, "motet serve: gRPC on %s\n", bound);
    if (options.grpc_port_file.empty()) return absl::OkStatus();
    return proto::WriteFileAtomic(options.grpc_port_file, bound + "\n");
  }

 private:
  std::unique_ptr<RetrievalService> service_;
  std::unique_ptr<grpc::Server> server_;
};

absl::Status ServeRetrieval(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(
      const ServedRetriever served,
      OpenRetriever(options.served, options.engine.product, context));
  const retrieve::Retriever& retriever = *served.retriever;
  std::vector<ServedIndex> indexes;
  std::vector<std::string> names;
  for (const std::string& argument : options.indexes) {
    MOTET_ASSIGN_OR_RETURN(indexes.emplace_back(),
                           OpenServedIndex(argument, retriever.base()));
    names.push_back(absl::StrCat(indexes.back().name, " (",
                                 indexes.back().index->documents(),
                                 " documents)"));
  }
  const PolicyGate gate(retriever, served.revoked);
  RetrievalEngine engine(
      retriever.base(),
      [&](math::ExpertMask set) { return retriever.QueriesFor(set); },
      {.max_waiting = options.engine.max_waiting});
  MOTET_ASSIGN_OR_RETURN(
      const auto retrieval,
      Retrieval::Create(retriever, retriever.base(), gate, engine,
                        std::move(indexes),
                        {.tell_experts = !options.conceal_experts}));
  const RetrievalFront front(*retrieval);
  GrpcSide side;
  MOTET_RETURN_IF_ERROR(side.Start(options, context, *retrieval));
  const std::string experts =
      absl::StrJoin(retriever.Names(retriever.All()), ", ");
  return ServeHttp(
      options,
      absl::StrCat(retriever.name, " (",
                   experts.empty() ? "encoder"
                                   : absl::StrCat("retriever, ", experts),
                   names.empty() ? ""
                                 : absl::StrCat("; ",
                                                absl::StrJoin(names, ", ")),
                   ")"),
      [&](const HttpRequest& request, HttpReply& reply) {
        front.Handle(request, reply);
      });
}

absl::Status Run(const Options& options, const Context& context) {
  // Before any thread starts, so that sigwait gets them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return IsForRetrieval(options.served.model, context)
             ? ServeRetrieval(options, context)
             : ServeText(options, context);
}

}  // namespace

void AddServe(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "serve", "Serve a model directory or a composition over HTTP, "
               "OpenAI-compatible: /v1/completions, or, of a BERT encoder or "
               "a retrieval composition, /v1/embeddings and /v1/search; with "
               "`experts: {include, exclude}` and `purpose`");
  AddServedOptions(*command, options->served);
  command->add_option("--name", options->served.name,
                      "What clients call it, instead of its own name");
  command->add_option("--address", options->http.address,
                      "HOST:PORT; port 0 = any")
      ->capture_default_str();
  command->add_option("--port-file", options->port_file,
                      "Write HOST:PORT here once ready");
  command
      ->add_option("--index", options->indexes,
                   "NAME=FOLDER of a document index that /v1/search answers "
                   "from; once for each")
      ->allow_extra_args(false);
  command->add_flag("--conceal-experts", options->conceal_experts,
                    "Do not tell which expert answered a query");
  command->add_option("--grpc-address", options->grpc_address,
                      "HOST:PORT for Embed and Search over gRPC, with the "
                      "federation's certificates; port 0 = any");
  command->add_option("--grpc-port-file", options->grpc_port_file,
                      "Write gRPC's HOST:PORT here once ready");
  command->add_option("--max-waiting", options->engine.max_waiting,
                      "Requests in the queue before 429")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--max-connections", options->http.max_connections,
                      "Open connections before 429")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  AddStateMemoryOption(*command, options->engine);
  AddArithmeticOption(*command, options->engine.product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
