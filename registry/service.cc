// SPDX-License-Identifier: Apache-2.0
#include "registry/service.h"

#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <string>
#include <utility>

#include "proto/channel.h"
#include "proto/error.h"
#include "proto/status.h"
#include "registry/record.h"

namespace motet::registry {
namespace {

using proto::SpiffeId;

// Runs `call` with the verified peer; logs and maps what went wrong.
template <typename Call>
grpc::Status Answer(const Core& core, const grpc::ServerContext& context,
                    const char* what, Call call) {
  const absl::StatusOr<SpiffeId> peer =
      proto::PeerOf(context, core.federation());
  const absl::Status status = peer.ok() ? call(*peer) : peer.status();
  if (!status.ok()) {
    spdlog::warn("refused {} of {}: {}: {}", what,
                 peer.ok() ? peer->ToString() : context.peer(),
                 absl::StatusCodeToString(status.code()),
                 std::string(status.message()));
  }
  return proto::ToGrpc(status);
}

// Moves the value out, or returns the error.
template <typename T>
absl::Status Take(absl::StatusOr<T> from, T* to) {
  if (from.ok()) *to = *std::move(from);
  return from.status();
}

absl::Status ReceivePublish(Core* core, const SpiffeId& peer,
                            grpc::ServerReader<v1::PublishRequest>* reader,
                            v1::PublishReply* reply) {
  v1::PublishRequest message;
  if (!reader->Read(&message) || !message.has_record()) {
    return proto::Invalid("publish", "a stream that does not begin so",
                          "the package's record first");
  }
  MOTET_ASSIGN_OR_RETURN(
      const std::unique_ptr<PublishSession> session,
      core->BeginPublish(peer, std::move(*message.mutable_record())));
  while (reader->Read(&message)) {
    if (message.message_case() != v1::PublishRequest::kChunk) {
      return proto::Invalid("publish", "a second record", "chunks only");
    }
    MOTET_RETURN_IF_ERROR(session->Add(std::move(*message.mutable_chunk())));
  }
  MOTET_RETURN_IF_ERROR(Take(core->FinishPublish(*session), reply));
  const v1::PackageRecord& record = reply->record();
  spdlog::info("published {} manifest {} bytes {} log {} by {}{}", record.id(),
               proto::Hex(record.manifest_sha256()), TotalBytes(record),
               record.log_index(), peer.ToString(),
               reply->already_published() ? " (again)" : "");
  return absl::OkStatus();
}

absl::Status SendChunks(Core* core, const v1::ChunksRequest& request,
                        grpc::ServerWriter<v1::ChunkReply>* writer) {
  MOTET_RETURN_IF_ERROR(core->CheckChunks(request));
  for (const std::string& sha256 : request.sha256()) {
    const v1::ChunkReply reply = core->ReadChunk(sha256);
    if (!reply.error().empty()) spdlog::warn("chunk: {}", reply.error());
    // A false answer: the client has gone, and with it the reason to go on.
    if (!writer->Write(reply)) return absl::CancelledError("client has gone");
  }
  return absl::OkStatus();
}

}  // namespace

grpc::Status Service::Missing(grpc::ServerContext* context,
                              const v1::MissingRequest* request,
                              v1::MissingReply* reply) {
  return Answer(*core_, *context, "missing", [&](const SpiffeId& peer) {
    return Take(core_->Missing(peer, request->record()), reply);
  });
}

grpc::Status Service::Publish(grpc::ServerContext* context,
                              grpc::ServerReader<v1::PublishRequest>* reader,
                              v1::PublishReply* reply) {
  return Answer(*core_, *context, "publish", [&](const SpiffeId& peer) {
    return ReceivePublish(core_, peer, reader, reply);
  });
}

grpc::Status Service::Fetch(grpc::ServerContext* context,
                            const v1::FetchRequest* request,
                            v1::FetchReply* reply) {
  return Answer(*core_, *context, "fetch", [&](const SpiffeId&) {
    return Take(core_->Fetch(*request), reply);
  });
}

grpc::Status Service::Chunks(grpc::ServerContext* context,
                             const v1::ChunksRequest* request,
                             grpc::ServerWriter<v1::ChunkReply>* writer) {
  return Answer(*core_, *context, "chunks", [&](const SpiffeId&) {
    return SendChunks(core_, *request, writer);
  });
}

grpc::Status Service::List(grpc::ServerContext* context,
                           const v1::ListRequest* request,
                           v1::ListReply* reply) {
  return Answer(*core_, *context, "list", [&](const SpiffeId&) {
    return Take(core_->List(*request), reply);
  });
}

grpc::Status Service::Revoke(grpc::ServerContext* context,
                             const v1::RevokeRequest* request,
                             v1::RevokeReply* reply) {
  return Answer(*core_, *context, "revoke", [&](const SpiffeId& peer) {
    absl::Status status = Take(core_->Revoke(peer, *request), reply);
    if (status.ok()) {
      spdlog::info("revoked {} log {} by {}: {}", request->id(),
                   reply->entry().index(), peer.ToString(),
                   Printable(request->reason()));
    }
    return status;
  });
}

grpc::Status Service::Log(grpc::ServerContext* context,
                          const v1::LogRequest* request, v1::LogReply* reply) {
  return Answer(*core_, *context, "log", [&](const SpiffeId&) {
    return Take(core_->Log(*request), reply);
  });
}

}  // namespace motet::registry
