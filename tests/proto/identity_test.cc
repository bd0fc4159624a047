// SPDX-License-Identifier: Apache-2.0
#include "proto/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <time.h>

#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "fixture.h"
#include "proto/openssl.h"

namespace motet::proto {
namespace {

using testing::HasSubstr;

constexpr int64_t kDay = 24 * 60 * 60;

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

TEST(NameTest, GoodAndBadNames) {
  for (const std::string& name :
       {std::string("a"), std::string("7"), std::string("a.b-c"),
        std::string(63, 'a')}) {
    EXPECT_TRUE(CheckName("test", name).ok()) << name;
  }
  for (const std::string& name :
       {std::string(), std::string("A"), std::string("-a"), std::string("a-"),
        std::string(".a"), std::string("a."), std::string("a_b"),
        std::string("a/b"), std::string(".."), std::string("a\0b", 3),
        std::string("\xc3\xa4"), std::string(64, 'a')}) {
    EXPECT_FALSE(CheckName("test", name).ok()) << name;
  }
}

TEST(SpiffeTest, RoundTrip) {
  for (const std::string uri :
       {"spiffe://choir/owner/acme.org/node/n1",
        "spiffe://choir/coordinator/main", "spiffe://choir/registry/r-1"}) {
    const auto id = ParseSpiffeId(uri);
    ASSERT_TRUE(id.ok()) << id.status();
    EXPECT_EQ(id->ToString(), uri);
  }
  const auto node = ParseSpiffeId("spiffe://choir/owner/acme/node/n1");
  EXPECT_EQ(node->federation, "choir");
  EXPECT_EQ(node->role, "node");
  EXPECT_EQ(node->owner, "acme");
  EXPECT_EQ(node->name, "n1");
}

TEST(SpiffeTest, AnythingElseIsRefused) {
  for (const std::string& uri :
       {std::string(), std::string("spiffe://"), std::string("spiffe://choir"),
        std::string("https://choir/registry/r"),
        std::string("SPIFFE://choir/registry/r"),
        std::string("spiffe://choir/registry"),
        std::string("spiffe://choir/registry/"),
        std::string("spiffe://choir/registry/r/"),
        std::string("spiffe://choir//registry/r"),
        std::string("spiffe://choir/admin/r"),
        std::string("spiffe://choir/node/n"),
        std::string("spiffe://choir/owner/acme/node"),
        std::string("spiffe://choir/owner/../node/n"),
        std::string("spiffe://choir/owner/acme/coordinator/n"),
        std::string("spiffe://choir/registry/r?x"),
        std::string("spiffe://choir:80/registry/r"),
        std::string("spiffe://choir/registry/r\0", 26),
        "spiffe://choir/registry/" + std::string(5000, 'r')}) {
    EXPECT_FALSE(ParseSpiffeId(uri).ok()) << uri;
  }
}

class IdentityTest : public testing::Test {
 protected:
  std::string Request(const SpiffeId& id) {
    const auto request = MakeRequest(key_.private_pem, id);
    EXPECT_TRUE(request.ok()) << request.status();
    return *request;
  }
  std::string Issued(const SpiffeId& id, const IssueOptions& options = {}) {
    const std::string request = Request(id);
    const auto certificate = Issue(
        authority_, request, InspectRequest(request)->fingerprint, options);
    EXPECT_TRUE(certificate.ok()) << certificate.status();
    return certificate.value_or("");
  }

  Authority authority_ = NewAuthority("choir");
  KeyPair key_ = *MakeKey();
};

TEST_F(IdentityTest, KeysDifferAndAreP256InPkcs8) {
  EXPECT_NE(MakeKey()->private_pem, key_.private_pem);
  EXPECT_THAT(key_.private_pem, HasSubstr("-----BEGIN PRIVATE KEY-----"));
  EXPECT_THAT(key_.public_pem, HasSubstr("-----BEGIN PUBLIC KEY-----"));
  EXPECT_TRUE(ReadPrivateKey("test", key_.private_pem).ok());
}

TEST_F(IdentityTest, RequestShowsIdAndFingerprint) {
  const auto info = InspectRequest(Request(Node("acme", "n1")));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->id.ToString(), "spiffe://choir/owner/acme/node/n1");
  EXPECT_THAT(info->fingerprint, testing::MatchesRegex("SHA256:[0-9a-f]{64}"));
  // The key's, not the request's.
  EXPECT_EQ(InspectRequest(Request(Node("other", "n2")))->fingerprint,
            info->fingerprint);
}

TEST_F(IdentityTest, RequestForNoNameIsNotMade) {
  EXPECT_FALSE(MakeRequest(key_.private_pem, Node("acme/..", "n1")).ok());
  EXPECT_FALSE(MakeRequest(key_.private_pem, Node("", "n1")).ok());
  EXPECT_FALSE(MakeRequest("no key", Node("acme", "n1")).ok());
}

TEST_F(IdentityTest, EveryFlippedByteOfARequestIsRefusedOrHarmless) {
  const std::string request = Request(Node("acme", "n1"));
  const std::string fingerprint = InspectRequest(request)->fingerprint;
  int accepted = 0;
  for (size_t i = 0; i < request.size(); ++i) {
    std::string bad = request;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    const auto info = InspectRequest(bad);
    if (!info.ok()) continue;
    // PEM lets some characters go; what was signed is the same then.
    ++accepted;
    EXPECT_EQ(info->id.ToString(), "spiffe://choir/owner/acme/node/n1") << i;
    EXPECT_EQ(info->fingerprint, fingerprint) << i;
  }
  EXPECT_LT(accepted, 20);
}

TEST_F(IdentityTest, IssuedCertificateHoldsTheRequestsIdAndKey) {
  const std::string pem = Issued(Node("acme", "n1"));
  const auto info = InspectCertificate(pem);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->id.ToString(), "spiffe://choir/owner/acme/node/n1");
  EXPECT_EQ(info->public_pem, key_.public_pem);
  EXPECT_EQ(info->fingerprint,
            InspectRequest(Request(Node("acme", "n1")))->fingerprint);
  EXPECT_LE(info->not_before, time(nullptr));
  EXPECT_NEAR(info->not_after, time(nullptr) + 365 * kDay, 600);
  EXPECT_GE(info->serial.size(), 24u);
  EXPECT_TRUE(VerifyCertificate(pem, authority_.certificate_pem).ok());
}

TEST_F(IdentityTest, SerialsAreNotRepeated) {
  std::set<std::string> serials;
  for (int i = 0; i < 20; ++i) {
    serials.insert(InspectCertificate(Issued(Node("acme", "n1")))->serial);
  }
  EXPECT_EQ(serials.size(), 20u);
}

TEST_F(IdentityTest, FingerprintsArePastedWithBlanksAndCapitals) {
  const std::string request = Request(Node("acme", "n1"));
  const std::string fingerprint = InspectRequest(request)->fingerprint;
  EXPECT_TRUE(Issue(authority_, request,
                    "  " + absl::AsciiStrToUpper(fingerprint) + "\n")
                  .ok());
}

TEST_F(IdentityTest, WrongFingerprintIsRefusedShowingBoth) {
  const std::string request = Request(Node("acme", "n1"));
  const std::string right = InspectRequest(request)->fingerprint;
  std::string wrong = right;
  wrong.back() = wrong.back() == '0' ? '1' : '0';
  for (const std::string& given : {wrong, std::string(), right.substr(0, 70),
                                   right.substr(7)}) {
    const auto result = Issue(authority_, request, given);
    ASSERT_EQ(result.status().code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(Message(result.status()), HasSubstr(right));
    EXPECT_THAT(Message(result.status()), HasSubstr(given));
  }
}

TEST_F(IdentityTest, OtherFederationIsRefused) {
  const std::string request = Request(Node("acme", "n1", "orchestra"));
  const auto result =
      Issue(authority_, request, InspectRequest(request)->fingerprint);
  ASSERT_EQ(result.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(Message(result.status()), HasSubstr("orchestra"));
  EXPECT_THAT(Message(result.status()), HasSubstr("choir"));
}

TEST_F(IdentityTest, UsagesFollowFromTheRole) {
  const auto usages = [&](const SpiffeId& id) {
    const auto c = ReadCertificate("test", Issued(id));
    EXPECT_EQ(X509_get_key_usage(c->get()),
              static_cast<uint32_t>(KU_DIGITAL_SIGNATURE));
    EXPECT_EQ(X509_check_ca(c->get()), 0);
    return X509_get_extended_key_usage(c->get());
  };
  EXPECT_EQ(usages(Node("acme", "n1")),
            static_cast<uint32_t>(XKU_SSL_CLIENT | XKU_CODE_SIGN));
  EXPECT_EQ(usages(Server("registry")),
            static_cast<uint32_t>(XKU_SSL_SERVER | XKU_SSL_CLIENT));
  EXPECT_EQ(usages(Server("coordinator")),
            static_cast<uint32_t>(XKU_SSL_SERVER | XKU_SSL_CLIENT |
                                  XKU_CODE_SIGN));
}

TEST_F(IdentityTest, ServersHaveLoopbackAndTheirHosts) {
  const auto hosts = [](const std::string& pem, const std::string& host) {
    const auto c = ReadCertificate("test", pem);
    return X509_check_host(c->get(), host.c_str(), 0, 0, nullptr) == 1 ||
           X509_check_ip_asc(c->get(), host.c_str(), 0) == 1;
  };
  const std::string plain = Issued(Server("registry"));
  for (const char* host : {"localhost", "127.0.0.1", "::1"}) {
    EXPECT_TRUE(hosts(plain, host)) << host;
  }
  EXPECT_FALSE(hosts(plain, "registry.example"));
  IssueOptions options;
  options.hosts = {"registry.example", "192.0.2.7", "localhost"};
  const std::string named = Issued(Server("registry"), options);
  EXPECT_TRUE(hosts(named, "registry.example"));
  EXPECT_TRUE(hosts(named, "192.0.2.7"));
  EXPECT_FALSE(hosts(Issued(Node("acme", "n1")), "localhost"));
}

TEST_F(IdentityTest, BadOptionsAreRefused) {
  const std::string server = Request(Server("registry"));
  const std::string node = Request(Node("acme", "n1"));
  const std::string fingerprint = InspectRequest(server)->fingerprint;
  IssueOptions options;
  for (const int days : {0, -1, 100'000}) {
    options.days = days;
    EXPECT_FALSE(Issue(authority_, server, fingerprint, options).ok()) << days;
  }
  options.days = 10;
  for (const char* host : {"", "*.example", "a b", "x,IP:1.2.3.4"}) {
    options.hosts = {host};
    EXPECT_FALSE(Issue(authority_, server, fingerprint, options).ok()) << host;
  }
  options.hosts = {"example.org"};
  EXPECT_FALSE(Issue(authority_, node, fingerprint, options).ok());
}

TEST_F(IdentityTest, KeyOfAnotherAuthorityIsRefused) {
  const std::string request = Request(Node("acme", "n1"));
  Authority mixed = authority_;
  mixed.private_pem = NewAuthority("choir").private_pem;
  EXPECT_EQ(Issue(mixed, request, InspectRequest(request)->fingerprint)
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(IdentityTest, ExpiredAndNotYetValid) {
  const std::string pem = Issued(Node("acme", "n1"));
  const auto at = [&](int64_t when) {
    return VerifyCertificate(pem, authority_.certificate_pem, when);
  };
  EXPECT_TRUE(at(time(nullptr) + 364 * kDay).ok());
  const absl::Status late = at(time(nullptr) + 366 * kDay);
  EXPECT_EQ(late.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(Message(late), HasSubstr("expired"));
  const absl::Status early = at(time(nullptr) - kDay);
  EXPECT_EQ(early.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(Message(early), HasSubstr("clocks"));
}

TEST_F(IdentityTest, AuthorityOfTheSameNameIsNotTheSameAuthority) {
  const absl::Status status = VerifyCertificate(
      Issued(Node("acme", "n1")), NewAuthority("choir").certificate_pem);
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(IdentityTest, ALeafIsNoAuthority) {
  const std::string leaf = Issued(Server("coordinator"));
  EXPECT_FALSE(VerifyCertificate(leaf, leaf).ok());
  EXPECT_FALSE(FederationOf(leaf).ok());
  // Nor can it issue.
  const std::string request = Request(Node("acme", "n1"));
  EXPECT_FALSE(Issue(Authority{leaf, key_.private_pem}, request,
                     InspectRequest(request)->fingerprint)
                   .ok());
}

TEST_F(IdentityTest, AuthorityKnowsItsFederation) {
  EXPECT_EQ(*FederationOf(authority_.certificate_pem), "choir");
  EXPECT_FALSE(MakeAuthority("Not A Name").ok());
  const auto c = ReadCertificate("test", authority_.certificate_pem);
  EXPECT_EQ(X509_check_ca(c->get()), 1);
  EXPECT_EQ(X509_get_pathlen(c->get()), 0);
  EXPECT_EQ(X509_get_key_usage(c->get()),
            static_cast<uint32_t>(KU_KEY_CERT_SIGN | KU_CRL_SIGN));
  // An authority is nobody's identity.
  EXPECT_FALSE(InspectCertificate(authority_.certificate_pem).ok());
}

TEST_F(IdentityTest, OnlyP256) {
  for (const char* curve : {"P-384", "P-521"}) {
    const KeyPtr key(EVP_EC_gen(curve));
    EXPECT_FALSE(CheckP256("test", key.get()).ok()) << curve;
  }
  const KeyPtr rsa(EVP_RSA_gen(2048));
  EXPECT_FALSE(CheckP256("test", rsa.get()).ok());
  EXPECT_FALSE(CheckP256("test", nullptr).ok());
}

TEST_F(IdentityTest, GarbageIsRefusedEverywhere) {
  const std::string other_kind = key_.public_pem;
  for (const std::string& text :
       {std::string(), std::string("garbage"), other_kind,
        std::string(1 << 20, 'x'),
        std::string("-----BEGIN CERTIFICATE-----\nAAAA\n"
                    "-----END CERTIFICATE-----\n")}) {
    EXPECT_FALSE(InspectRequest(text).ok());
    EXPECT_FALSE(InspectCertificate(text).ok());
    EXPECT_FALSE(VerifyCertificate(text, authority_.certificate_pem).ok());
    EXPECT_FALSE(VerifyCertificate(authority_.certificate_pem, text).ok());
    EXPECT_FALSE(ReadPrivateKey("test", text).ok());
  }
  const std::string pem = Issued(Node("acme", "n1"));
  EXPECT_FALSE(InspectCertificate(pem + pem).ok());
}

}  // namespace
}  // namespace motet::proto
