// SPDX-License-Identifier: Apache-2.0
#include "proto/channel.h"

#include <grpc/grpc_security.h>
#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_context.h>
#include <sys/stat.h>

#include <functional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"
#include "proto/openssl.h"

namespace motet::proto {
namespace {

namespace tls = grpc::experimental;

constexpr int kKeepAliveMs = 30'000;
constexpr int kKeepAliveTimeoutMs = 10'000;
constexpr int kMinPingIntervalMs = 10'000;
constexpr int kMaxReconnectMs = 5'000;

// The one URI among the peer's names as an id of the federation. `where`
// names the end that looks.
absl::StatusOr<SpiffeId> CheckPeer(absl::string_view where,
                                   const std::vector<std::string>& uris,
                                   absl::string_view federation,
                                   absl::string_view role) {
  const auto refuse = [&](absl::string_view got) {
    const std::string want =
        role.empty() ? absl::StrCat("one of federation \"", federation, "\"")
                     : absl::StrCat("the ", role, " of federation \"",
                                    federation, "\"");
    return Error(absl::StatusCode::kUnauthenticated, where, got, want,
                 "check the address and the certificates");
  };
  if (uris.size() != 1) {
    return refuse(absl::StrCat("a peer with ", uris.size(), " SPIFFE ids"));
  }
  absl::StatusOr<SpiffeId> id = ParseSpiffeId(uris[0]);
  if (!id.ok() || id->federation != federation ||
      (!role.empty() && id->role != role)) {
    return refuse(absl::StrCat("the peer ", uris[0].substr(0, 200)));
  }
  return id;
}

// Runs after the handshake has checked the chain: names are all that is left.
class NameVerifier final : public tls::ExternalCertificateVerifier {
 public:
  NameVerifier(std::string federation, std::string role)
      : federation_(std::move(federation)), role_(std::move(role)) {}

  bool Verify(tls::TlsCustomVerificationCheckRequest* request,
              std::function<void(grpc::Status)>,
              grpc::Status* sync_status) override {
    std::vector<std::string> uris;
    for (const grpc::string_ref& uri : request->uri_names()) {
      uris.emplace_back(uri.data(), uri.size());
    }
    const auto peer = CheckPeer("channel", uris, federation_, role_);
    if (!peer.ok()) {
      *sync_status = grpc::Status(grpc::StatusCode::UNAUTHENTICATED,
                                  std::string(peer.status().message()));
    }
    return true;
  }
  void Cancel(tls::TlsCustomVerificationCheckRequest*) override {}

 private:
  const std::string federation_;
  const std::string role_;
};

absl::Status CheckKeyMode(const std::string& path) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return absl::OkStatus();  // told later
  if ((st.st_mode & (S_IRWXG | S_IRWXO)) == 0) return absl::OkStatus();
  return Error(absl::StatusCode::kPermissionDenied, "key",
               absl::StrCat(path, " open to others (mode ",
                            absl::Hex((st.st_mode >> 6) & 7),
                            absl::Hex((st.st_mode >> 3) & 7),
                            absl::Hex(st.st_mode & 7), ")"),
               "a key that its owner alone can read",
               absl::StrCat("run `chmod 600 ", path,
                            "`, and make a new key if others may have read "
                            "it"));
}

// Checks the three files against each other; the id in the certificate.
absl::StatusOr<SpiffeId> CheckFiles(const TlsFiles& files) {
  MOTET_RETURN_IF_ERROR(CheckKeyMode(files.private_key));
  MOTET_ASSIGN_OR_RETURN(const std::string authority,
                         ReadFile(files.authority, kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(const std::string certificate,
                         ReadFile(files.certificate, kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(const std::string private_key,
                         ReadFile(files.private_key, kMaxCertificateBytes));
  MOTET_ASSIGN_OR_RETURN(const KeyPtr key,
                         ReadPrivateKey(files.private_key, private_key));
  MOTET_ASSIGN_OR_RETURN(const CertificatePtr parsed,
                         ReadCertificate(files.certificate, certificate));
  if (EVP_PKEY_eq(X509_get0_pubkey(parsed.get()), key.get()) != 1) {
    OpensslReason();
    return Invalid(files.certificate,
                   absl::StrCat("a certificate for another key than ",
                                files.private_key),
                   "the certificate of that key",
                   "put back the pair that belongs together, or make a "
                   "request with this key and have it approved");
  }
  MOTET_RETURN_IF_ERROR(VerifyCertificate(certificate, authority));
  MOTET_ASSIGN_OR_RETURN(const CertificateInfo info,
                         InspectCertificate(certificate));
  return info.id;
}

std::shared_ptr<tls::CertificateProviderInterface> Provider(
    const TlsFiles& files) {
  return std::make_shared<tls::FileWatcherCertificateProvider>(
      files.private_key, files.certificate, files.authority, kReloadSeconds);
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerTls(
    const TlsFiles& files) {
  MOTET_ASSIGN_OR_RETURN(const SpiffeId self, CheckFiles(files));
  if (self.role == "node") {
    return Invalid("server", absl::StrCat("the certificate of ",
                                          self.ToString()),
                   "a coordinator's or a registry's",
                   "nodes dial out and never listen");
  }
  tls::TlsServerCredentialsOptions options(Provider(files));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.set_certificate_verifier(
      tls::ExternalCertificateVerifier::Create<NameVerifier>(self.federation,
                                                             ""));
  std::shared_ptr<grpc::ServerCredentials> credentials =
      tls::TlsServerCredentials(options);
  if (credentials == nullptr) {
    return Error(absl::StatusCode::kInternal, "server",
                 "no credentials from gRPC", "TLS server credentials");
  }
  return credentials;
}

void ConfigureServer(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMaxRpcMessageBytes));
  builder.SetMaxSendMessageSize(static_cast<int>(kMaxRpcMessageBytes));
  // Left alone, gRPC would close an idle stream on the third keep-alive.
  builder.AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
      kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepAliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             kKeepAliveTimeoutMs);
  // Two servers on one port would each see half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> ClientChannel(
    const std::string& address, const TlsFiles& files,
    const std::string& expected_role) {
  const auto colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 1 ||
      port > 65535) {
    return Invalid("channel", absl::StrCat("the address \"", address, "\""),
                   "HOST:PORT", "give the address as 127.0.0.1:7001");
  }
  MOTET_ASSIGN_OR_RETURN(const SpiffeId self, CheckFiles(files));
  tls::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(Provider(files));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  // The SPIFFE id decides, so host names need not be in certificates.
  options.set_verify_server_certs(true);
  options.set_check_call_host(false);
  options.set_certificate_verifier(
      tls::ExternalCertificateVerifier::Create<NameVerifier>(self.federation,
                                                             expected_role));
  const std::shared_ptr<grpc::ChannelCredentials> credentials =
      tls::TlsCredentials(options);
  if (credentials == nullptr) {
    return Error(absl::StatusCode::kInternal, "channel",
                 "no credentials from gRPC", "TLS credentials");
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(kMaxRpcMessageBytes));
  arguments.SetMaxSendMessageSize(static_cast<int>(kMaxRpcMessageBytes));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepAliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepAliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
  // Never share a connection that was checked for another role.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Proxies of the environment are not for federations.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

absl::StatusOr<SpiffeId> PeerOf(const grpc::ServerContext& context,
                                const std::string& federation) {
  const std::shared_ptr<const grpc::AuthContext> auth = context.auth_context();
  std::vector<std::string> uris;
  if (auth != nullptr && auth->IsPeerAuthenticated()) {
    for (const grpc::string_ref& uri :
         auth->FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME)) {
      uris.emplace_back(uri.data(), uri.size());
    }
  }
  return CheckPeer("peer", uris, federation, "");
}

}  // namespace motet::proto
