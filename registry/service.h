// SPDX-License-Identifier: Apache-2.0
// The gRPC face of the registry. A handler does three things: ask who calls,
// call the core, map the error; and it leaves one line in the log for every
// publish, revocation and refusal. No rule lives here.
#pragma once

#include "registry.grpc.pb.h"
#include "registry/core.h"

namespace motet::registry {

class Service final : public v1::Registry::Service {
 public:
  // `core` outlives the service.
  explicit Service(Core* core) : core_(core) {}

  grpc::Status Missing(grpc::ServerContext* context,
                       const v1::MissingRequest* request,
                       v1::MissingReply* reply) override;
  grpc::Status Publish(grpc::ServerContext* context,
                       grpc::ServerReader<v1::PublishRequest>* reader,
                       v1::PublishReply* reply) override;
  grpc::Status Fetch(grpc::ServerContext* context,
                     const v1::FetchRequest* request,
                     v1::FetchReply* reply) override;
  grpc::Status Chunks(grpc::ServerContext* context,
                      const v1::ChunksRequest* request,
                      grpc::ServerWriter<v1::ChunkReply>* writer) override;
  grpc::Status List(grpc::ServerContext* context,
                    const v1::ListRequest* request,
                    v1::ListReply* reply) override;
  grpc::Status Revoke(grpc::ServerContext* context,
                      const v1::RevokeRequest* request,
                      v1::RevokeReply* reply) override;
  grpc::Status Log(grpc::ServerContext* context, const v1::LogRequest* request,
                   v1::LogReply* reply) override;

 private:
  Core* const core_;
};

}  // namespace motet::registry
