// SPDX-License-Identifier: Apache-2.0
// Embed and Search over gRPC: who asks is what its certificate says, and that
// is the tenant for the gate. All else is Retrieval's.
#pragma once

#include <string>

#include "coordinator/retrieval.h"
#include "retrieval.grpc.pb.h"

namespace motet::coordinator {

class RetrievalService final : public v1::Retrieval::Service {
 public:
  // federation: whose certificates are believed. retrieval must outlive this.
  RetrievalService(std::string federation, const Retrieval& retrieval);

  grpc::Status Embed(grpc::ServerContext* context,
                     const v1::EmbedRequest* request,
                     v1::EmbedReply* reply) override;
  grpc::Status Search(grpc::ServerContext* context,
                      const v1::SearchRequest* request,
                      v1::SearchReply* reply) override;

 private:
  const std::string federation_;
  const Retrieval& retrieval_;
};

}  // namespace motet::coordinator
