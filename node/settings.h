// SPDX-License-Identifier: Apache-2.0
// The node's folder and its node.toml. The folder is everything a node is:
//   node.toml  policy.toml  key.pem  request.pem  certificate.pem  ca.pem
//   corpus/{train,test}.jsonl   corpus/retrieval/   base/MANIFEST_SHA256/   jobs/PLAN_ID/
// What enters is the file and the environment, what leaves is a checked
// value; flags are applied by the commands (flag > environment > file).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/channel.h"
#include "proto/identity.h"

namespace motet::node {

struct Settings {
  std::string dir;
  std::string federation;   // "demo"
  std::string owner;        // "code.example"
  std::string node;         // "node1"
  std::string coordinator = "127.0.0.1:7442";  // host:port
  std::string registry = "127.0.0.1:7443";     // host:port
  std::string domain;       // label of the expert; default: owner's first part
  std::string title;        // of the expert; default made from owner, domain
  std::vector<std::string> tags;
  std::vector<std::string> languages;  // BCP 47
  int64_t threads = 0;      // 0 = as many as the machine has cores
  std::string embedder;     // folder of an encoder, for plans that need one

  std::string Path(const std::string& relative) const;
  std::string Name() const { return owner + "/" + node; }
  proto::SpiffeId Id() const;
  proto::TlsFiles Tls() const;
};

// Reads DIR/node.toml. NotFound says how to make a node; unknown keys and
// values that do not fit are named all at once. Then MOTET_COORDINATOR,
// MOTET_REGISTRY and MOTET_THREADS, where set, take the file's place.
absl::StatusOr<Settings> LoadSettings(const std::string& dir);
// The text of a node.toml that LoadSettings reads, with comments.
std::string WriteSettings(const Settings& settings);
// host:port with a port of 1..65535.
absl::Status CheckAddress(absl::string_view where, absl::string_view address);
// "code" of "code.example".
std::string DomainOf(const std::string& owner);

}  // namespace motet::node
