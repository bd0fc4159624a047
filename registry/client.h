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
  // Idempotent: the same bytes again succeed (already_published); other bytes
  // under a published id, a new signature included, are AlreadyExists: sign
  // once, then publish until it succeeds. Unavailable when the registry cannot
  // be reached: nothing half-visible stays, and a later call sends only
  // missing chunks. Other errors: PermissionDenied (another owner's id or
  // signature), InvalidArgument (what the message says of the folder),
  // FailedPrecondition (a revoked id), Aborted and ResourceExhausted (try
  // again later), Cancelled (by progress).
  virtual absl::StatusOr<v1::PublishReply> Publish(
      const std::string& folder, const std::string& id,
      const PublishOptions& options) = 0;

  // Fetches a package into `folder` (made; AlreadyExists and left alone when
  // there). Until every digest has been checked the files are in
  // `folder`.partial; after any error they stay there and the next call goes
  // on from them. A chunk that arrives damaged is asked for once more, alone;
  // DataLoss names it if that does not help. Give id, or manifest_sha256 as
  // hex. FailedPrecondition: the package is revoked. Whether the signature is
  // by whom it should be is the caller's to check (proto/signature.h,
  // VerifyPackageFolder).
  virtual absl::StatusOr<v1::PackageRecord> Fetch(
      const std::string& id_or_sha256, const std::string& folder,
      const Progress& progress) = 0;

  // The record, revoked or not, its chunk lists included.
  virtual absl::StatusOr<v1::PackageRecord> Inspect(
      const std::string& id_or_sha256) = 0;
  // All packages whose id starts with prefix, revoked ones too, ascending by
  // id, without chunk lists.
  virtual absl::StatusOr<std::vector<v1::PackageRecord>> List(
      const std::string& prefix) = 0;
  // By the owner or the coordinator. Revoking again returns the first entry.
  virtual absl::StatusOr<v1::LogEntry> Revoke(const std::string& id,
                                              const std::string& reason) = 0;
  // All entries from that number on.
  virtual absl::StatusOr<std::vector<v1::LogEntry>> Log(uint64_t from) = 0;
};

// Chunks of one file, cut at `cuts` and at 1 MiB, each with its digest.
// InvalidArgument: cuts that do not ascend or lie beyond the end.
absl::StatusOr<v1::FileEntry> DescribeFile(const std::string& path,
                                           const std::string& name,
                                           const std::vector<uint64_t>& cuts);

}  // namespace motet::registry
