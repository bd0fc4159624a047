// SPDX-License-Identifier: Apache-2.0
// What the tests of proto share: a folder of their own and members of a
// made-up federation.
#pragma once

#include <string>

#include "proto/channel.h"
#include "proto/identity.h"

namespace motet::proto {

// A new folder below testing::TempDir(), removed with what it holds.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const;

 private:
  std::string path_;
};

// Writes or fails the test.
void Put(const std::string& path, const std::string& bytes, int mode = 0644);
std::string Get(const std::string& path);

struct Member {
  SpiffeId id;
  std::string private_pem;
  std::string certificate_pem;
};
Authority NewAuthority(const std::string& federation);
Member NewMember(const Authority& authority, const SpiffeId& id);
SpiffeId Node(const std::string& owner, const std::string& name,
              const std::string& federation = "choir");
SpiffeId Server(const std::string& role,
                const std::string& federation = "choir");
// The member's files in a folder NAME of `folder`, for channels.
TlsFiles WriteTls(const TempFolder& folder, const std::string& name,
                  const Authority& authority, const Member& member);

}  // namespace motet::proto
