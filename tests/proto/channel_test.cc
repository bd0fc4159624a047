// SPDX-License-Identifier: Apache-2.0
// Real servers on free ports of the loopback, good clients and bad ones.
#include "proto/channel.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <sys/stat.h>

#include <chrono>

#include "absl/strings/str_cat.h"
#include "fixture.h"
#include "proto/files.h"
#include "proto/limits.h"
#include "proto/openssl.h"
#include "proto/status.h"
#include "registry.grpc.pb.h"

namespace motet::proto {
namespace {

using testing::HasSubstr;

// Answers List with the peer's id as the only package.
class PeerEcho final : public v1::Registry::Service {
 public:
  grpc::Status List(grpc::ServerContext* context, const v1::ListRequest*,
                    v1::ListReply* reply) override {
    const auto peer = PeerOf(*context, "choir");
    if (!peer.ok()) return ToGrpc(peer.status());
    reply->add_packages()->set_id(peer->ToString());
    return grpc::Status::OK;
  }
  grpc::Status Fetch(grpc::ServerContext* context, const v1::FetchRequest*,
                     v1::FetchReply*) override {
    return ToGrpc(PeerOf(*context, "elsewhere").status());
  }
};

class ChannelTest : public testing::Test {
 protected:
  void Start(const TlsFiles& files,
             const std::string& address = "127.0.0.1:0") {
    const auto credentials = ServerTls(files);
    ASSERT_TRUE(credentials.ok()) << credentials.status();
    grpc::ServerBuilder builder;
    ConfigureServer(builder);
    int port = 0;
    builder.AddListeningPort(address, *credentials, &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    address_ = absl::StrCat("127.0.0.1:", port);
  }
  void StartRegistry() {
    Start(WriteTls(folder_, "registry", authority_,
                   NewMember(authority_, Server("registry"))));
  }
  TlsFiles NodeFiles() {
    return WriteTls(folder_, "node", authority_,
                    NewMember(authority_, Node("acme", "n1")));
  }
  static absl::StatusOr<std::string> List(
      const std::shared_ptr<grpc::Channel>& channel) {
    grpc::ClientContext context;
    // A bound against hanging, not a measure: it is never met.
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::seconds(60));
    v1::ListReply reply;
    const grpc::Status status =
        v1::Registry::NewStub(channel)->List(&context, {}, &reply);
    if (!status.ok()) return FromGrpc(status, "registry under test");
    return reply.packages(0).id();
  }
  absl::StatusOr<std::string> Ask(const TlsFiles& files,
                                  const std::string& role = "registry") {
    const auto channel = ClientChannel(address_, files, role);
    if (!channel.ok()) return channel.status();
    return List(*channel);
  }

  // Whether OpenSSL alone gets through a handshake with this version.
  bool Handshake(const TlsFiles& files, int version) const {
    const OpensslPtr<SSL_CTX, SSL_CTX_free> context(
        SSL_CTX_new(TLS_client_method()));
    // Level 0 lets the client itself agree to the oldest versions.
    SSL_CTX_set_security_level(context.get(), 0);
    SSL_CTX_set_min_proto_version(context.get(), version);
    SSL_CTX_set_max_proto_version(context.get(), version);
    const unsigned char h2[] = {2, 'h', '2'};
    SSL_CTX_set_alpn_protos(context.get(), h2, sizeof h2);
    EXPECT_EQ(SSL_CTX_use_certificate_file(context.get(),
                                           files.certificate.c_str(),
                                           SSL_FILETYPE_PEM),
              1);
    EXPECT_EQ(SSL_CTX_use_PrivateKey_file(context.get(),
                                          files.private_key.c_str(),
                                          SSL_FILETYPE_PEM),
              1);
    const BioPtr connection(BIO_new_ssl_connect(context.get()));
    BIO_set_conn_hostname(connection.get(), address_.c_str());
    const bool ok = BIO_do_handshake(connection.get()) == 1;
    OpensslReason();
    return ok;
  }

  TempFolder folder_;
  Authority authority_ = NewAuthority("choir");
  PeerEcho service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

TEST_F(ChannelTest, GoodClientIsKnownByItsId) {
  StartRegistry();
  const auto peer = Ask(NodeFiles());
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(*peer, "spiffe://choir/owner/acme/node/n1");
}

TEST_F(ChannelTest, PeerOfAnotherFederationIsUnauthenticated) {
  StartRegistry();
  const auto channel = ClientChannel(address_, NodeFiles(), "registry");
  ASSERT_TRUE(channel.ok()) << channel.status();
  grpc::ClientContext context;
  v1::FetchReply reply;
  const grpc::Status status =
      v1::Registry::NewStub(*channel)->Fetch(&context, {}, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(status.error_message(), HasSubstr("elsewhere"));
}

TEST_F(ChannelTest, ClientWithoutCertificateIsRefused) {
  StartRegistry();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = authority_.certificate_pem;
  const auto answer =
      List(grpc::CreateChannel(address_, grpc::SslCredentials(options)));
  ASSERT_FALSE(answer.ok());
  EXPECT_THAT(std::string(answer.status().message()),
              HasSubstr("refused our certificate"));
}

TEST_F(ChannelTest, ClientWithoutTlsIsRefused) {
  StartRegistry();
  const auto answer = List(
      grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  EXPECT_FALSE(answer.ok());
}

TEST_F(ChannelTest, OlderTlsThan12IsRefused) {
  StartRegistry();
  const TlsFiles files = NodeFiles();
  EXPECT_TRUE(Handshake(files, TLS1_3_VERSION));
  EXPECT_TRUE(Handshake(files, TLS1_2_VERSION));
  EXPECT_FALSE(Handshake(files, TLS1_1_VERSION));
}

TEST_F(ChannelTest, ClientOfAnotherAuthorityIsRefusedByTheServer) {
  StartRegistry();
  // Trusts the right authority, so that the refusal is the server's.
  const Authority other = NewAuthority("choir");
  const Member member = NewMember(other, Node("acme", "n1"));
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = authority_.certificate_pem;
  options.pem_private_key = member.private_pem;
  options.pem_cert_chain = member.certificate_pem;
  const auto answer =
      List(grpc::CreateChannel(address_, grpc::SslCredentials(options)));
  ASSERT_FALSE(answer.ok());
  EXPECT_THAT(std::string(answer.status().message()),
              HasSubstr("refused our certificate"));
}

TEST_F(ChannelTest, ServerOfAnotherAuthorityIsRefusedByTheClient) {
  StartRegistry();
  const Authority other = NewAuthority("choir");
  const auto answer =
      Ask(WriteTls(folder_, "stranger", other,
                   NewMember(other, Node("acme", "n1"))));
  ASSERT_FALSE(answer.ok());
  EXPECT_THAT(std::string(answer.status().message()),
              HasSubstr("not of our authority"));
}

TEST_F(ChannelTest, ServerOfTheWrongRoleIsRefused) {
  StartRegistry();
  const auto answer = Ask(NodeFiles(), "coordinator");
  ASSERT_EQ(answer.status().code(), absl::StatusCode::kPermissionDenied)
      << answer.status();
  EXPECT_THAT(std::string(answer.status().message()),
              HasSubstr("the coordinator of federation \"choir\""));
}

TEST_F(ChannelTest, ANodesCertificateIsNoServers) {
  const auto credentials = ServerTls(NodeFiles());
  EXPECT_EQ(credentials.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ChannelTest, NobodyListening) {
  StartRegistry();
  server_->Shutdown();
  server_.reset();
  const auto answer = Ask(NodeFiles());
  ASSERT_EQ(answer.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(answer.status().message()),
              HasSubstr("no listener at the address"));
}

TEST_F(ChannelTest, ChannelReconnectsWhenTheServerIsBack) {
  const TlsFiles files =
      WriteTls(folder_, "registry", authority_,
               NewMember(authority_, Server("registry")));
  Start(files);
  const auto channel = ClientChannel(address_, NodeFiles(), "registry");
  ASSERT_TRUE(channel.ok()) << channel.status();
  ASSERT_TRUE(List(*channel).ok());
  server_->Shutdown();
  server_.reset();
  EXPECT_EQ(List(*channel).status().code(), absl::StatusCode::kUnavailable);
  Start(files, address_);
  ASSERT_TRUE((*channel)->WaitForConnected(std::chrono::system_clock::now() +
                                           std::chrono::seconds(60)));
  EXPECT_TRUE(List(*channel).ok());
}

TEST_F(ChannelTest, ReplacedFilesAreTakenWithoutARestart) {
  StartRegistry();
  const Authority other = NewAuthority("choir");
  const TlsFiles client = WriteTls(folder_, "other", other,
                                   NewMember(other, Node("acme", "n1")));
  ASSERT_FALSE(Ask(client).ok());
  WriteTls(folder_, "registry", other, NewMember(other, Server("registry")));
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::seconds(120);
  absl::StatusOr<std::string> answer = Ask(client);
  while (!answer.ok() && std::chrono::steady_clock::now() < deadline) {
    answer = Ask(client);
  }
  EXPECT_TRUE(answer.ok()) << answer.status();
}

TEST_F(ChannelTest, MessagesUpToTheLimitPassAndLargerOnesDoNot) {
  StartRegistry();
  const auto channel = ClientChannel(address_, NodeFiles(), "registry");
  ASSERT_TRUE(channel.ok());
  const auto stub = v1::Registry::NewStub(*channel);
  for (const int64_t slack : {1024, -1}) {
    grpc::ClientContext context;
    v1::ListRequest request;
    request.set_prefix(std::string(
        static_cast<size_t>(kMaxRpcMessageBytes - slack), 'x'));
    v1::ListReply reply;
    const grpc::Status status = stub->List(&context, request, &reply);
    EXPECT_EQ(status.ok(), slack > 0) << status.error_message();
  }
}

TEST_F(ChannelTest, KeyOpenToOthersIsRefused) {
  const TlsFiles files = NodeFiles();
  ASSERT_EQ(chmod(files.private_key.c_str(), 0640), 0);
  const auto channel = ClientChannel("127.0.0.1:1", files, "registry");
  ASSERT_EQ(channel.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(channel.status().message()),
              HasSubstr("mode 640"));
  EXPECT_THAT(std::string(channel.status().message()), HasSubstr("chmod 600"));
}

TEST_F(ChannelTest, KeyOfAnotherCertificateIsRefused) {
  const TlsFiles files = NodeFiles();
  Put(files.private_key, MakeKey()->private_pem, 0600);
  const auto channel = ClientChannel("127.0.0.1:1", files, "registry");
  ASSERT_EQ(channel.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(channel.status().message()),
              HasSubstr("another key"));
}

TEST_F(ChannelTest, OwnCertificateOfAnotherAuthorityIsRefused) {
  const TlsFiles files = NodeFiles();
  Put(files.authority, NewAuthority("choir").certificate_pem);
  EXPECT_EQ(ClientChannel("127.0.0.1:1", files, "registry").status().code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(ChannelTest, MissingFileIsNamed) {
  TlsFiles files = NodeFiles();
  files.certificate = folder_ / "nowhere.pem";
  const auto channel = ClientChannel("127.0.0.1:1", files, "registry");
  EXPECT_EQ(channel.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(channel.status().message()),
              HasSubstr("nowhere.pem"));
}

TEST_F(ChannelTest, AddressesAreChecked) {
  const TlsFiles files = NodeFiles();
  for (const char* address :
       {"", "localhost", ":7001", "localhost:", "localhost:0",
        "localhost:65536", "localhost:http"}) {
    EXPECT_EQ(ClientChannel(address, files, "registry").status().code(),
              absl::StatusCode::kInvalidArgument)
        << address;
  }
}

}  // namespace
}  // namespace motet::proto
