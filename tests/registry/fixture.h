// SPDX-License-Identifier: Apache-2.0
// A small federation for the registry's tests: authority, members, a served
// store, signed package folders.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "proto/channel.h"
#include "proto/identity.h"
#include "registry/client.h"
#include "registry/server.h"
#include "registry/store.h"

namespace motet::registry {

// A new folder below testing::TempDir(), removed with what it holds.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const {
    return path_ + "/" + name;
  }

 private:
  std::string path_;
};

void WriteFile(const std::string& path, const std::string& bytes,
               int mode = 0644);
std::string ReadFile(const std::string& path);
// Path below the folder -> bytes, of every file in it.
std::map<std::string, std::string> ReadFolder(const std::string& folder);
// Bytes that do not repeat, from a seed.
std::string Noise(size_t bytes, uint32_t seed);

struct Member {
  proto::SpiffeId id;
  std::string private_pem;
  std::string certificate_pem;
  proto::TlsFiles tls;
};

class Federation {
 public:
  explicit Federation(const std::string& name = "choir");
  const std::string& name() const { return name_; }
  // A certified member; its files are in `folder()`/TAG.
  Member Node(const std::string& owner);
  Member Server(const std::string& role);  // "registry", "coordinator"
  const TempFolder& folder() const { return folder_; }

 private:
  Member Make(const proto::SpiffeId& id);
  const std::string name_;
  TempFolder folder_;
  proto::Authority authority_;
  int members_ = 0;
};

// Writes the files, a manifest when there is none, and model.sig by `signer`
// for `id`; returns the folder.
std::string WritePackage(const std::string& folder, const std::string& id,
                         const Member& signer,
                         std::map<std::string, std::string> files);

// A registry that serves `store` on a free port.
std::unique_ptr<Server> Serve(Federation& federation,
                              std::shared_ptr<Store> store);
std::unique_ptr<Client> Connect(const Server& server, const Member& member);

}  // namespace motet::registry
