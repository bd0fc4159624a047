// SPDX-License-Identifier: Apache-2.0
// A registry that listens: store, core, service and mutual TLS put together,
// for motet-registry and for any program that embeds it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/channel.h"
#include "registry/core.h"
#include "registry/store.h"

namespace motet::registry {

struct ServerOptions {
  std::string federation;
  std::string address = "127.0.0.1:7443";  // host:port; port 0: a free one
  proto::TlsFiles tls;
  Core::Clock clock = absl::Now;
};

// All that can be checked of the options without opening a port: names, the
// certificate's role, that it chains to the authority and fits the key.
absl::Status CheckServerOptions(const ServerOptions& options);

class Server {
 public:
  virtual ~Server() = default;  // as Shutdown(0)

  // Serves when it returns. `store` is shared: others may read it meanwhile.
  // Unavailable: the address cannot be had.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      const ServerOptions& options, std::shared_ptr<Store> store);

  virtual int port() const = 0;
  // host:port with the actual port.
  virtual const std::string& address() const = 0;
  // Takes no new calls, lets those under way end, cancels them after `grace`.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace motet::registry
