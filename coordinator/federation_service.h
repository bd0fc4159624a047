// SPDX-License-Identifier: Apache-2.0
// The coordinator's gRPC service: nodes hold one stream each, over which
// plans go out and progress comes in; administrators (the coordinator's own
// certificate) offer plans and ask for the state of things.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/job_store.h"
#include "training.grpc.pb.h"

namespace motet::coordinator {

class FederationService final : public v1::Federation::Service {
 public:
  // `store` must outlive the service.
  FederationService(std::string federation, JobStore& store);
  ~FederationService() override;

  // Ends every node's stream, so that the server can shut down.
  void Stop();

  grpc::Status Subscribe(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::NodeMessage>*
          stream) override;
  grpc::Status OfferPlan(grpc::ServerContext* context,
                         const v1::TrainingPlan* plan,
                         v1::OfferReply* reply) override;
  grpc::Status CancelPlan(grpc::ServerContext* context,
                          const v1::CancelRequest* request,
                          v1::CancelReply* reply) override;
  grpc::Status Status(grpc::ServerContext* context,
                      const v1::StatusRequest* request,
                      v1::StatusReply* reply) override;

 private:
  struct Session;
  absl::Status Administrator(const grpc::ServerContext& context) const;
  absl::Status Receive(const v1::NodeMessage& message, Session& session);

  const std::string federation_;
  JobStore& store_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, std::shared_ptr<Session>> sessions_
      ABSL_GUARDED_BY(mutex_);
  std::map<std::string, v1::NodeStatus> nodes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace motet::coordinator
