// SPDX-License-Identifier: Apache-2.0
// What the registry answers, to whom: every rule of who may do what, and every
// check of what a peer sent, without the transport. The peer's name comes from
// its verified certificate (registry/service.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/identity.h"
#include "registry.pb.h"
#include "registry/publish.h"
#include "registry/store.h"

namespace motet::registry {

// Thread-safe. Every member of the federation may read everything that is
// published; CheckOwner (registry/publish.h) says who may write.
class Core {
 public:
  using Clock = std::function<absl::Time()>;
  Core(PublishSession::Context context, Clock clock)
      : context_(std::move(context)), clock_(std::move(clock)) {}

  const std::string& federation() const { return context_.federation; }

  // The record's chunks that are not here, each once, in the record's order.
  absl::StatusOr<v1::MissingReply> Missing(const proto::SpiffeId& peer,
                                           const v1::PackageRecord& record);
  absl::StatusOr<std::unique_ptr<PublishSession>> BeginPublish(
      const proto::SpiffeId& peer, v1::PackageRecord record);
  absl::StatusOr<v1::PublishReply> FinishPublish(PublishSession& session);
  // Revoked packages too: the record says so.
  absl::StatusOr<v1::FetchReply> Fetch(const v1::FetchRequest& request);
  absl::Status CheckChunks(const v1::ChunksRequest& request);
  // Never fails: what cannot be served says so in the reply.
  v1::ChunkReply ReadChunk(const std::string& sha256);
  absl::StatusOr<v1::ListReply> List(const v1::ListRequest& request);
  // The owner, and the coordinator (the federation's administrators).
  absl::StatusOr<v1::RevokeReply> Revoke(const proto::SpiffeId& peer,
                                         const v1::RevokeRequest& request);
  absl::StatusOr<v1::LogReply> Log(const v1::LogRequest& request);

 private:
  std::string Now() const;
  const PublishSession::Context context_;
  const Clock clock_;
};

}  // namespace motet::registry
