// SPDX-License-Identifier: Apache-2.0
#include "fixture.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "proto/files.h"

namespace motet::proto {

TempFolder::TempFolder() {
  path_ = testing::TempDir() + "/motet-proto-XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) abort();
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TempFolder::operator/(const std::string& name) const {
  return path_ + "/" + name;
}

void Put(const std::string& path, const std::string& bytes, int mode) {
  const absl::Status status = WriteFileAtomic(path, bytes, mode);
  ASSERT_TRUE(status.ok()) << status;
}

std::string Get(const std::string& path) {
  // Not through proto/files.h, which is what some tests check.
  std::ifstream in(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

Authority NewAuthority(const std::string& federation) {
  absl::StatusOr<Authority> authority = MakeAuthority(federation);
  EXPECT_TRUE(authority.ok()) << authority.status();
  return authority.value_or(Authority{});
}

Member NewMember(const Authority& authority, const SpiffeId& id) {
  Member member;
  member.id = id;
  const absl::StatusOr<KeyPair> key = MakeKey();
  EXPECT_TRUE(key.ok()) << key.status();
  const auto request = MakeRequest(key->private_pem, id);
  EXPECT_TRUE(request.ok()) << request.status();
  const auto info = InspectRequest(*request);
  EXPECT_TRUE(info.ok()) << info.status();
  const auto certificate = Issue(authority, *request, info->fingerprint);
  EXPECT_TRUE(certificate.ok()) << certificate.status();
  member.private_pem = key->private_pem;
  member.certificate_pem = *certificate;
  return member;
}

SpiffeId Node(const std::string& owner, const std::string& name,
              const std::string& federation) {
  return SpiffeId{federation, "node", owner, name};
}

SpiffeId Server(const std::string& role, const std::string& federation) {
  return SpiffeId{federation, role, "", "main"};
}

TlsFiles WriteTls(const TempFolder& folder, const std::string& name,
                  const Authority& authority, const Member& member) {
  const std::string home = folder / name;
  EXPECT_TRUE(MakeDirectories(home).ok());
  const TlsFiles files{home + "/ca.pem", home + "/certificate.pem",
                       home + "/key.pem"};
  Put(files.authority, authority.certificate_pem);
  Put(files.certificate, member.certificate_pem);
  Put(files.private_key, member.private_pem, 0600);
  return files;
}

}  // namespace motet::proto
