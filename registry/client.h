// SPDX-License-Identifier: Apache-2.0
// The registry as nodes and the coordinator see it: package folders in, out.
// Everything crosses mutual TLS. Calls block; a client may be shared by
// threads.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/channel.h"
#include "registry.pb.h"

namespace motet::registry {

// Bytes done, bytes in all. Return false to stop (the call is Cancelled).
using Progress = std::function<bool(uint64_t done, uint64_t total)>;

struct PublishOptions {
  // Where chunks of a file must begin (ascending offsets), so that none
  // straddles a tensor; files not named here are cut at 1 MiB.
  std::map<std::string, std::vector<uint64_t>> cuts;
  Progress progress;
};

class Client {
 public:
  virtual ~Client() = default;

  // Never connects by itself: the first call does. `address`: host:port.
  static absl::StatusOr<std::unique_ptr<Client>> Make(
      const std::string& address, const proto::TlsFiles& tls);

  // Publishes a signed package folder as `id`. OK means durable and visible.
  // Idempotent: the same bytes again succeed; other bytes under a published
  // id are AlreadyExists. Unavailable when the registry cannot be reached:
  // nothing half-visible stays, and a later call sends only missing chunks.
  virtual absl::StatusOr<v1::PublishReply> Publish(
      const std::string& folder, const std::string& id,
      const PublishOptions& options) = 0;

  // Fetches a package into `folder` (made; must not exist). Files appear
  // under a temporary name until every digest has been checked; an
  // interrupted fetch resumes. Give id, or manifest_sha256 as hex.
  virtual absl::StatusOr<v1::PackageRecord> Fetch(
      const std::string& id_or_sha256, const std::string& folder,
      const Progress& progress) = 0;

  virtual absl::StatusOr<v1::PackageRecord> Inspect(
      const std::string& id_or_sha256) = 0;
  // All packages whose id starts with prefix, revoked ones too.
  virtual absl::StatusOr<std::vector<v1::PackageRecord>> List(
      const std::string& prefix) = 0;
  virtual absl::StatusOr<v1::LogEntry> Revoke(const std::string& id,
                                              const std::string& reason) = 0;
  virtual absl::StatusOr<std::vector<v1::LogEntry>> Log(uint64_t from) = 0;
};

// Chunks of one file, cut at `cuts` and at 1 MiB, each with its digest.
absl::StatusOr<v1::FileEntry> DescribeFile(const std::string& path,
                                           const std::string& name,
                                           const std::vector<uint64_t>& cuts);

}  // namespace motet::registry
