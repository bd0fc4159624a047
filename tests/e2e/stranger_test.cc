// SPDX-License-Identifier: Apache-2.0
// Who is not a member gets nowhere, and is told why: a node with a
// certificate of another authority, a node with none, a bare TLS client.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "tests/harness/federation.h"

namespace motet::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

void ExpectWellSaid(const std::string& text) {
  EXPECT_THAT(text, HasSubstr("["));
  EXPECT_THAT(text, HasSubstr("got "));
  EXPECT_THAT(text, HasSubstr("want "));
}

// Whether a server says anything to a TLS client that has the certificate and
// key of this node's folder, or none.
bool Answers(int port, const std::string& folder) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) {
    ADD_FAILURE() << "no connection to port " << port;
    close(fd);
    return false;
  }
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  if (!folder.empty()) {
    EXPECT_EQ(SSL_CTX_use_certificate_chain_file(
                  context, (folder + "/certificate.pem").c_str()),
              1);
    EXPECT_EQ(SSL_CTX_use_PrivateKey_file(
                  context, (folder + "/key.pem").c_str(), SSL_FILETYPE_PEM),
              1);
  }
  SSL* tls = SSL_new(context);
  const unsigned char h2[] = "\x02h2";
  SSL_set_alpn_protos(tls, h2, 3);
  SSL_set_fd(tls, fd);
  // In TLS 1.3 the client's handshake ends before the server has judged its
  // certificate: only the first bytes of HTTP/2 tell.
  char part[256];
  const bool answers =
      SSL_connect(tls) == 1 && SSL_read(tls, part, sizeof part) > 0;
  SSL_free(tls);
  SSL_CTX_free(context);
  close(fd);
  return answers;
}

class Stranger : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(ours_.Start());
    ours_.Join("code");
    // The same names, another authority.
    ours_.MustMotet({"init", "demo", "--federation", other(),
                     "--registry-address", ours_.registry_address(),
                     "--coordinator-address", ours_.coordinator_address()});
    const Result request = ours_.MotetNode(
        {"init", "--dir", copy(), "--federation", "demo", "--owner",
         "code.example", "--node", "node1", "--coordinator",
         ours_.coordinator_address(), "--registry", ours_.registry_address()});
    const size_t at = request.out.find("SHA256:");
    ASSERT_NE(at, std::string::npos) << request.out << request.err;
    ours_.MustMotet({"member", "approve", "--federation", other(),
                     copy() + "/request.pem", "--fingerprint",
                     request.out.substr(at, 7 + 64)});
  }
  std::string other() const { return ours_.Path("other"); }
  std::string copy() const { return ours_.Path("stranger"); }
  std::string certificate() const {
    return other() + "/members/code.example/node1.pem";
  }
  // Runs the stranger's daemon until its log has the text.
  std::string LogOfRun(const std::string& text) {
    Process node({Program("motet-node"), "run", "--dir", copy()},
                 ours_.Path("logs/stranger.log"), ours_.environment());
    WaitUntil("\"" + text + "\" from the stranger", [&] {
      return ReadText(node.log()).find(text) != std::string::npos ||
             !node.Alive();
    });
    return ReadText(node.log());
  }

  Federation ours_;
};

TEST_F(Stranger, CertificateOfAnotherAuthorityIsNotTakenByJoin) {
  const Result join =
      ours_.MotetNode({"join", "--dir", copy(), "--certificate", certificate(),
                       "--authority", ours_.home() + "/ca/ca.pem"});
  EXPECT_EQ(join.code, 1);
  ExpectWellSaid(join.err);
  EXPECT_THAT(join.err, HasSubstr("authority"));
  EXPECT_FALSE(std::filesystem::exists(copy() + "/certificate.pem"));
}

TEST_F(Stranger, NodeOfAnotherAuthorityIsRefused) {
  ours_.MustMotetNode({"join", "--dir", copy(), "--certificate", certificate(),
                       "--authority", other() + "/ca/ca.pem"});
  const std::string log = LogOfRun("authority");
  ExpectWellSaid(log);
  EXPECT_THAT(log, HasSubstr("authority"));
  EXPECT_THAT(log, Not(HasSubstr("connected to")));
  EXPECT_EQ(ours_.Json({"train", "status"})["nodes"].size(), 0u);
  // The same for the commands of that authority's coordinator.
  const Result list =
      ours_.Motet({"--federation", other(), "expert", "list"});
  EXPECT_EQ(list.code, 1);
  ExpectWellSaid(list.err);
  EXPECT_THAT(list.err, HasSubstr("authority"));
}

TEST_F(Stranger, NodeWithoutCertificateIsTold) {
  Process node({Program("motet-node"), "run", "--dir", copy()},
               ours_.Path("logs/stranger.log"), ours_.environment());
  EXPECT_EQ(node.Wait(), 1);
  const std::string log = ReadText(node.log());
  ExpectWellSaid(log);
  EXPECT_THAT(log, HasSubstr("certificate.pem"));
}

TEST_F(Stranger, TlsWithoutCertificateGetsNothing) {
  for (const int port : {ours_.registry_port(), ours_.coordinator_port()}) {
    EXPECT_TRUE(Answers(port, ours_.Node("code")));
    EXPECT_FALSE(Answers(port, ""));
  }
  EXPECT_TRUE(ours_.registry().Alive());
  EXPECT_TRUE(ours_.daemon().Alive());
  ours_.MustMotet({"expert", "list"});
}

}  // namespace
}  // namespace motet::testing
