// SPDX-License-Identifier: Apache-2.0
// How a folder becomes a node, and a node a member: a key and a request are
// made here, an administrator answers with a certificate, and the two are
// fitted together. The key never leaves the folder. No network.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/settings.h"

namespace motet::node {

struct InitResult {
  std::string request_path;
  std::string fingerprint;  // for the administrator, by another way
};
// Makes settings.dir with key.pem (0600), request.pem, policy.toml and
// node.toml (last: it makes the folder a node). AlreadyExists when the folder
// is one; an existing key or policy is kept and used, never overwritten.
absl::StatusOr<InitResult> InitNode(const Settings& settings);

// Installs both files after checking that the certificate is valid, chains to
// the authority, fits the key, and names this federation, owner and node. All
// that does not fit is told at once, and nothing is installed.
absl::Status JoinFederation(const Settings& settings,
                            const std::string& certificate_path,
                            const std::string& authority_path);

// FailedPrecondition, with the next command, when the node has no
// certificate yet.
absl::Status CheckJoined(const Settings& settings);

}  // namespace motet::node
