// SPDX-License-Identifier: Apache-2.0
#include "coordinator/retrieval_service.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "proto/channel.h"
#include "proto/error.h"
#include "proto/status.h"

namespace motet::coordinator {
namespace {

// The request as the peer may make it: a node asks for its owner; the
// federation's own programs for nobody in particular.
template <typename Request>
absl::StatusOr<Request> Own(const grpc::ServerContext& context,
                            const std::string& federation,
                            const Request& request) {
  MOTET_ASSIGN_OR_RETURN(const proto::SpiffeId peer,
                         proto::PeerOf(context, federation));
  Request own = request;
  own.set_tenant(peer.owner);
  return own;
}

template <typename Reply>
grpc::Status Finish(absl::StatusOr<Admitted<Reply>> answer, Reply* reply) {
  if (!answer.ok()) return proto::ToGrpc(answer.status());
  *reply = std::move(answer->reply);
  return grpc::Status::OK;
}

}  // namespace

RetrievalService::RetrievalService(std::string federation,
                                   const Retrieval& retrieval)
    : federation_(std::move(federation)), retrieval_(retrieval) {}

grpc::Status RetrievalService::Embed(grpc::ServerContext* context,
                                     const v1::EmbedRequest* request,
                                     v1::EmbedReply* reply) {
  const auto own = Own(*context, federation_, *request);
  if (!own.ok()) return proto::ToGrpc(own.status());
  return Finish(retrieval_.Embed(*own, [&] { return !context->IsCancelled(); }),
                reply);
}

grpc::Status RetrievalService::Search(grpc::ServerContext* context,
                                      const v1::SearchRequest* request,
                                      v1::SearchReply* reply) {
  const auto own = Own(*context, federation_, *request);
  if (!own.ok()) return proto::ToGrpc(own.status());
  return Finish(
      retrieval_.Search(*own, [&] { return !context->IsCancelled(); }), reply);
}

}  // namespace motet::coordinator
