// SPDX-License-Identifier: Apache-2.0
// Becoming a node, becoming a member, and every certificate that is not ours.
#include "node/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "node/policy.h"
#include "proto/files.h"
#include "tests/node/support.h"

namespace motet::node {
namespace {

using ::testing::HasSubstr;
using testing::NewFolder;
using testing::ReadAll;
using testing::TestFederation;

Settings Fresh() {
  Settings s;
  s.dir = NewFolder("fresh") + "/node";
  s.federation = "demo";
  s.owner = "code.example";
  s.node = "node1";
  return s;
}

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

TEST(InitTest, MakesAWholeFolder) {
  const Settings s = Fresh();
  auto result = InitNode(s);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->fingerprint.starts_with("SHA256:"));
  struct stat st;
  ASSERT_EQ(stat(s.Path("key.pem").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  auto info = proto::InspectRequest(ReadAll(s.Path("request.pem")));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->id.ToString(), "spiffe://demo/owner/code.example/node/node1");
  EXPECT_EQ(info->fingerprint, result->fingerprint);
  auto loaded = LoadSettings(s.dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->owner, "code.example");
  EXPECT_EQ(loaded->domain, "code");
  EXPECT_EQ(loaded->title, "code expert of code.example");
  EXPECT_TRUE(LoadPolicy(s.dir).ok());
}

TEST(InitTest, NeverOverwritesAKey) {
  const Settings s = Fresh();
  ASSERT_TRUE(InitNode(s).ok());
  const std::string key = ReadAll(s.Path("key.pem"));
  auto again = InitNode(s);
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Message(again.status()), HasSubstr("motet-node join"));
  // An init that was cut short goes on with the key that it made.
  std::filesystem::remove(s.Path("node.toml"));
  std::filesystem::remove(s.Path("request.pem"));
  ASSERT_TRUE(InitNode(s).ok());
  EXPECT_EQ(ReadAll(s.Path("key.pem")), key);
}

TEST(InitTest, RefusesBadNames) {
  Settings s = Fresh();
  s.owner = "Code Example";
  EXPECT_THAT(Message(InitNode(s).status()), HasSubstr("--owner"));
  s = Fresh();
  s.coordinator = "nowhere";
  EXPECT_THAT(Message(InitNode(s).status()), HasSubstr("--coordinator"));
  EXPECT_FALSE(proto::Exists(s.dir));
}

TEST(SettingsTest, UnknownKeysAndBadValuesAllAtOnce) {
  const std::string dir = NewFolder("settings");
  ASSERT_TRUE(proto::WriteFileAtomic(
                  dir + "/node.toml",
                  "federation = \"demo\"\nowner = \"A B\"\nnode = \"n\"\n"
                  "threds = 3\ncoordinator = \"x\"\nthreads = -1\n")
                  .ok());
  const std::string message = Message(LoadSettings(dir).status());
  for (const char* part : {"unknown key threds", "line 4", "owner is \"A B\"",
                           "coordinator is \"x\"", "threads is -1"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
  EXPECT_THAT(Message(LoadSettings(NewFolder("empty")).status()),
              HasSubstr("motet-node init"));
}

class JoinTest : public ::testing::Test {
 protected:
  JoinTest() : s_(Fresh()) { init_ = *InitNode(s_); }
  // Issues for this node's request by the federation's authority.
  std::string Issued(const TestFederation& f) {
    auto pem = proto::Issue(f.authority, ReadAll(init_.request_path),
                            init_.fingerprint);
    EXPECT_TRUE(pem.ok()) << pem.status();
    const std::string path = f.folder + "/issued.pem";
    EXPECT_TRUE(proto::WriteFileAtomic(path, *pem).ok());
    return path;
  }
  void ExpectRefused(const absl::Status& status, const char* part) {
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(Message(status), HasSubstr(part));
    EXPECT_FALSE(proto::Exists(s_.Path("certificate.pem")));
    EXPECT_FALSE(proto::Exists(s_.Path("ca.pem")));
    EXPECT_THAT(Message(CheckJoined(s_)), HasSubstr("motet-node join"));
  }
  TestFederation federation_;
  Settings s_;
  InitResult init_;
};

TEST_F(JoinTest, InstallsWhatFits) {
  const std::string path = Issued(federation_);
  const absl::Status s =
      JoinFederation(s_, path, federation_.authority_path);
  ASSERT_TRUE(s.ok()) << s;
  EXPECT_TRUE(CheckJoined(s_).ok());
  EXPECT_EQ(ReadAll(s_.Path("certificate.pem")), ReadAll(path));
}

TEST_F(JoinTest, RefusesACertificateOfAnotherAuthority) {
  TestFederation other;
  ExpectRefused(
      JoinFederation(s_, Issued(other), federation_.authority_path),
      "want a certificate for spiffe://demo/owner/code.example/node/node1");
}

TEST_F(JoinTest, RefusesAnotherNodesCertificateAndSaysAllReasons) {
  const proto::TlsFiles files =
      federation_.Enrol({"demo", "node", "legal.example", "node1"}, "legal");
  const absl::Status s =
      JoinFederation(s_, files.certificate, federation_.authority_path);
  ExpectRefused(s, "the certificate names spiffe://demo/owner/legal.example");
  EXPECT_THAT(Message(s), HasSubstr("the certificate is for key SHA256:"));
}

TEST_F(JoinTest, RefusesTheRightNameOnAnotherKey) {
  const proto::TlsFiles files =
      federation_.Enrol({"demo", "node", "code.example", "node1"}, "twin");
  ExpectRefused(
      JoinFederation(s_, files.certificate, federation_.authority_path),
      "the certificate is for key SHA256:");
}

TEST_F(JoinTest, RefusesAnotherFederationsAuthority) {
  TestFederation other("elsewhere");
  ExpectRefused(
      JoinFederation(s_, Issued(federation_), other.authority_path),
      "the authority is of federation elsewhere");
}

TEST_F(JoinTest, RefusesWhatIsNoCertificate) {
  const std::string path = federation_.folder + "/junk.pem";
  ASSERT_TRUE(proto::WriteFileAtomic(path, "hello").ok());
  EXPECT_FALSE(JoinFederation(s_, path, federation_.authority_path).ok());
  EXPECT_FALSE(
      JoinFederation(s_, federation_.folder + "/none.pem",
                     federation_.authority_path)
          .ok());
}

}  // namespace
}  // namespace motet::node
