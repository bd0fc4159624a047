// SPDX-License-Identifier: Apache-2.0
#include "coordinator/federation_service.h"

#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>

#include <deque>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "proto/channel.h"
#include "proto/error.h"
#include "proto/status.h"

namespace motet::coordinator {
namespace {

// A node that reads nothing must not fill our memory.
constexpr size_t kMaxQueued = 256;

}  // namespace

// One node's stream: what waits to be sent, and what it was offered already.
struct FederationService::Session {
  proto::SpiffeId peer;
  grpc::ServerContext* context = nullptr;
  absl::Mutex mutex;
  std::deque<v1::CoordinatorMessage> queue ABSL_GUARDED_BY(mutex);
  bool closed ABSL_GUARDED_BY(mutex) = false;
  std::set<std::string> offered ABSL_GUARDED_BY(mutex);

  void Send(v1::CoordinatorMessage message) {
    absl::MutexLock lock(&mutex);
    if (!closed && queue.size() < kMaxQueued) {
      queue.push_back(std::move(message));
    }
  }
  void Offer(const v1::TrainingPlan& plan) {
    v1::CoordinatorMessage message;
    *message.mutable_offer() = plan;
    absl::MutexLock lock(&mutex);
    if (!closed && queue.size() < kMaxQueued &&
        offered.insert(plan.id()).second) {
      queue.push_back(std::move(message));
    }
  }
  void Close() {
    absl::MutexLock lock(&mutex);
    closed = true;
  }
};

FederationService::FederationService(std::string federation, JobStore& store)
    : federation_(std::move(federation)), store_(store) {}

FederationService::~FederationService() { Stop(); }

void FederationService::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  for (auto& [name, session] : sessions_) {
    session->context->TryCancel();
    session->Close();
  }
}

absl::Status FederationService::Administrator(
    const grpc::ServerContext& context) const {
  MOTET_ASSIGN_OR_RETURN(proto::SpiffeId peer,
                         proto::PeerOf(context, federation_));
  if (peer.role == "coordinator") return absl::OkStatus();
  return proto::Error(absl::StatusCode::kPermissionDenied, "federation",
                      peer.ToString(), "the coordinator's own certificate");
}

absl::Status FederationService::Receive(const v1::NodeMessage& message,
                                        Session& session) {
  const auto take = [&](v1::JobUpdate update) -> absl::Status {
    // Who speaks is what the certificate says, not what the message says.
    update.set_owner(session.peer.owner);
    update.set_node(session.peer.name);
    return store_.Update(update);
  };
  if (message.has_update()) {
    const v1::JobUpdate& update = message.update();
    if (absl::Status s = take(update); !s.ok()) {
      // A plan of before this coordinator's memory: the node's own affair.
      if (absl::IsNotFound(s)) return absl::OkStatus();
      return s;
    }
    if (update.state() != v1::JOB_TRAINING || update.step() == 0) {
      spdlog::info("{}/{}: {} {} {}", session.peer.owner, session.peer.name,
                   update.plan_id(), StateName(update.state()),
                   update.detail());
    }
    return absl::OkStatus();
  }
  if (message.has_hello()) {
    {
      absl::MutexLock lock(&mutex_);
      nodes_[absl::StrCat(session.peer.owner, "/", session.peer.name)]
          .set_software(message.hello().software());
    }
    for (const v1::JobUpdate& job : message.hello().jobs()) {
      // A node may remember plans of before; those are its own affair.
      take(job).IgnoreError();
    }
    for (const v1::TrainingPlan& plan :
         store_.Open(session.peer.owner, session.peer.name)) {
      session.Offer(plan);
    }
  }
  return absl::OkStatus();
}

grpc::Status FederationService::Subscribe(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::NodeMessage>*
        stream) {
  auto peer = proto::PeerOf(*context, federation_);
  if (!peer.ok()) return proto::ToGrpc(peer.status());
  if (peer->role != "node") {
    return proto::ToGrpc(proto::Error(absl::StatusCode::kPermissionDenied,
                                      "subscribe", peer->ToString(),
                                      "a node's certificate"));
  }
  auto session = std::make_shared<Session>();
  session->peer = *peer;
  session->context = context;
  const std::string name = absl::StrCat(peer->owner, "/", peer->name);
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) {
      return grpc::Status(grpc::StatusCode::UNAVAILABLE,
                          "[subscribe] the coordinator is stopping");
    }
    // A node that dials again has lost its old stream.
    if (auto old = sessions_.find(name); old != sessions_.end()) {
      old->second->context->TryCancel();
      old->second->Close();
    }
    sessions_[name] = session;
    v1::NodeStatus& status = nodes_[name];
    status.set_owner(peer->owner);
    status.set_node(peer->name);
    status.set_connected(true);
  }
  spdlog::info("{} connected", name);
  std::thread writer([&] {
    for (;;) {
      v1::CoordinatorMessage message;
      {
        absl::MutexLock lock(&session->mutex);
        session->mutex.Await(absl::Condition(
            +[](Session* s) ABSL_NO_THREAD_SAFETY_ANALYSIS {
              return s->closed || !s->queue.empty();
            },
            session.get()));
        if (session->queue.empty()) return;
        message = std::move(session->queue.front());
        session->queue.pop_front();
      }
      if (!stream->Write(message)) return;
    }
  });
  v1::NodeMessage message;
  absl::Status status;
  while (stream->Read(&message)) {
    status = Receive(message, *session);
    if (!status.ok()) {
      spdlog::warn("{}: {}", name, std::string(status.message()));
      break;
    }
  }
  session->Close();
  if (!status.ok()) context->TryCancel();
  writer.join();
  absl::MutexLock lock(&mutex_);
  if (auto it = sessions_.find(name);
      it != sessions_.end() && it->second == session) {
    sessions_.erase(it);
    nodes_[name].set_connected(false);
    spdlog::info("{} disconnected", name);
  }
  return proto::ToGrpc(status);
}

grpc::Status FederationService::OfferPlan(grpc::ServerContext* context,
                                          const v1::TrainingPlan* plan,
                                          v1::OfferReply* reply) {
  absl::Status status = Administrator(*context);
  if (status.ok()) status = store_.AddPlan(*plan);
  if (!status.ok()) return proto::ToGrpc(status);
  spdlog::info("plan {} offered", plan->id());
  absl::MutexLock lock(&mutex_);
  for (auto& [name, session] : sessions_) {
    for (const v1::TrainingPlan& open :
         store_.Open(session->peer.owner, session->peer.name)) {
      if (open.id() != plan->id()) continue;
      session->Offer(open);
      reply->add_offered_to(name);
    }
  }
  return grpc::Status::OK;
}

grpc::Status FederationService::CancelPlan(grpc::ServerContext* context,
                                           const v1::CancelRequest* request,
                                           v1::CancelReply* reply) {
  if (absl::Status s = Administrator(*context); !s.ok()) {
    return proto::ToGrpc(s);
  }
  v1::CoordinatorMessage message;
  message.set_cancel_plan_id(request->plan_id());
  absl::MutexLock lock(&mutex_);
  for (auto& [name, session] : sessions_) session->Send(message);
  return grpc::Status::OK;
}

grpc::Status FederationService::Status(grpc::ServerContext* context,
                                       const v1::StatusRequest* request,
                                       v1::StatusReply* reply) {
  if (absl::Status s = Administrator(*context); !s.ok()) {
    return proto::ToGrpc(s);
  }
  for (const auto& job : store_.Jobs()) *reply->add_jobs() = job;
  for (const auto& plan : store_.Plans()) *reply->add_plans() = plan;
  absl::MutexLock lock(&mutex_);
  for (const auto& [name, node] : nodes_) *reply->add_nodes() = node;
  return grpc::Status::OK;
}

}  // namespace motet::coordinator
