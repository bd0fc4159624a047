// SPDX-License-Identifier: Apache-2.0
#include "registry/server.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/channel.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/identity.h"
#include "proto/limits.h"
#include "registry/service.h"

namespace motet::registry {
namespace {

// A blocked call holds a thread; past this many, calls wait their turn.
constexpr int kMaxThreads = 128;

class GrpcServer : public Server {
 public:
  GrpcServer(std::shared_ptr<Store> store, PublishSession::Context context,
             Core::Clock clock)
      : store_(std::move(store)),
        core_(std::move(context), std::move(clock)),
        service_(&core_) {}
  ~GrpcServer() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Listen(const std::string& address,
                      std::shared_ptr<grpc::ServerCredentials> credentials) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, std::move(credentials), &port_);
    proto::ConfigureServer(builder);
    // Finds clients that vanished in the middle of a publish.
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    grpc::ResourceQuota quota("motet-registry");
    quota.SetMaxThreads(kMaxThreads);
    builder.SetResourceQuota(quota);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return proto::Error(absl::StatusCode::kUnavailable, "registry",
                          absl::StrCat("no listener on ", address),
                          "a free address of this machine as host:port",
                          "see who has the port, or choose another address");
    }
    address_ = absl::StrCat(address.substr(0, address.rfind(':')), ":", port_);
    return absl::OkStatus();
  }

  int port() const override { return port_; }
  const std::string& address() const override { return address_; }
  void Shutdown(absl::Duration grace) override {
    if (server_ == nullptr) return;
    server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    server_->Wait();
    server_.reset();
  }

 private:
  const std::shared_ptr<Store> store_;
  Core core_;
  Service service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  std::string address_;
};

}  // namespace

absl::Status CheckServerOptions(const ServerOptions& options) {
  MOTET_RETURN_IF_ERROR(proto::CheckName("federation", options.federation));
  MOTET_ASSIGN_OR_RETURN(
      const std::string certificate,
      proto::ReadFile(options.tls.certificate, proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(const proto::CertificateInfo info,
                         proto::InspectCertificate(certificate));
  if (info.id.federation != options.federation || info.id.role != "registry") {
    return proto::Invalid(
        options.tls.certificate,
        absl::StrCat("a certificate for ", info.id.ToString()),
        absl::StrCat("one for a registry of ", options.federation),
        "use the certificate that `motet init` made for the registry");
  }
  return proto::ServerTls(options.tls).status();
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    const ServerOptions& options, std::shared_ptr<Store> store) {
  MOTET_RETURN_IF_ERROR(CheckServerOptions(options));
  PublishSession::Context context;
  context.store = store.get();
  context.federation = options.federation;
  MOTET_ASSIGN_OR_RETURN(
      context.authority_pem,
      proto::ReadFile(options.tls.authority, proto::kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(std::shared_ptr<grpc::ServerCredentials> credentials,
                         proto::ServerTls(options.tls));
  auto server = std::make_unique<GrpcServer>(std::move(store),
                                             std::move(context), options.clock);
  MOTET_RETURN_IF_ERROR(
      server->Listen(options.address, std::move(credentials)));
  return server;
}

}  // namespace motet::registry
