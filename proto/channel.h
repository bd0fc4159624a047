// SPDX-License-Identifier: Apache-2.0
// mTLS channels and servers, the only kind there is: both ends show a
// certificate of the federation's authority.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/identity.h"

namespace grpc {
class Channel;
class ServerBuilder;
class ServerContext;
class ServerCredentials;
}  // namespace grpc

namespace motet::proto {

// Paths of PEM files. Keys must not be readable by others.
struct TlsFiles {
  std::string authority;
  std::string certificate;
  std::string private_key;
};

inline constexpr int kReloadSeconds = 5;

// Reads and checks the files: the certificate chains to the authority and
// fits the key; each defect is named before any connection is tried. Clients
// must show a certificate of this federation. Files that are replaced later
// are taken for new connections within kReloadSeconds.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerTls(
    const TlsFiles& files);
// Message limits of limits.h, no sharing of the port, and leave for the
// keep-alives that ClientChannel sends. Every server's builder must get this:
// without it idle streams are closed after two minutes.
void ConfigureServer(grpc::ServerBuilder& builder);
// A channel to address "host:port" with message limits of limits.h and
// keep-alive. expected_role: the server's certificate must have that SPIFFE
// role ("registry", "coordinator"); else the call fails with a clear status.
absl::StatusOr<std::shared_ptr<grpc::Channel>> ClientChannel(
    const std::string& address, const TlsFiles& files,
    const std::string& expected_role);

// The verified peer of a call in a service's handler. Unauthenticated when it
// showed no SPIFFE id of this federation.
absl::StatusOr<SpiffeId> PeerOf(const grpc::ServerContext& context,
                                const std::string& federation);

}  // namespace motet::proto
