// SPDX-License-Identifier: Apache-2.0
// The coordinator's home folder, made by `motet init` (docs/federation.md):
//   motet.toml  ca/  coordinator/  registry/  members/OWNER/NODE.pem
//   base/  packages/SHA256/  compositions/NAME/motet.lock  jobs/
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/channel.h"
#include "registry/client.h"

namespace motet::coordinator {

struct Federation {
  std::string folder;
  std::string name;
  std::string registry_address;
  std::string coordinator_address;
  proto::TlsFiles tls;        // the coordinator's
  std::string authority_pem;  // contents

  std::string Path(const std::string& relative) const;
};

// Unknown keys in motet.toml are errors; a folder without one says how to
// make one.
absl::StatusOr<Federation> OpenFederation(const std::string& folder);

// The package's local folder, fetched from the registry and verified
// (signature, manifest) when it is not there yet. id or manifest SHA-256.
absl::StatusOr<std::string> LocalPackage(const Federation& federation,
                                         registry::Client& client,
                                         const std::string& id_or_sha256);

// The same folder for who compares the files with the manifest's digests
// himself (LoadComposition does): when it is there, of its files only the
// manifest is compared with the signature.
absl::StatusOr<std::string> SignedPackage(const Federation& federation,
                                          registry::Client& client,
                                          const std::string& sha256);

}  // namespace motet::coordinator
