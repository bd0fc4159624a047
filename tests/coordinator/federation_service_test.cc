// SPDX-License-Identifier: Apache-2.0
// The coordinator's service over real mTLS on a free port: who may do what,
// and what goes over a node's stream.
#include "coordinator/federation_service.h"

#include <grpcpp/grpcpp.h>
#include <stdlib.h>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/channel.h"
#include "proto/files.h"
#include "proto/identity.h"

namespace motet::coordinator {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Stream = grpc::ClientReaderWriter<v1::NodeMessage,
                                        v1::CoordinatorMessage>;

v1::TrainingPlan Plan(const std::string& id,
                      const std::vector<std::string>& owners = {}) {
  v1::TrainingPlan plan;
  plan.set_id(id);
  plan.set_method("flexolmo");
  plan.set_steps(10);
  for (const std::string& owner : owners) plan.add_owners(owner);
  return plan;
}
v1::NodeMessage Update(const std::string& plan, v1::JobState state,
                       const std::string& owner = "",
                       const std::string& node = "") {
  v1::NodeMessage message;
  v1::JobUpdate& update = *message.mutable_update();
  update.set_plan_id(plan);
  update.set_state(state);
  update.set_owner(owner);
  update.set_node(node);
  return message;
}

class FederationServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "federationXXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    authority_ = *proto::MakeAuthority("demo");
    ASSERT_TRUE(proto::WriteFileAtomic(folder_ + "/ca.pem",
                                       authority_.certificate_pem).ok());
    coordinator_ = Enrol({"demo", "coordinator", "", "main"});
    store_ = *JobStore::Open(folder_ + "/jobs");
    service_ = std::make_unique<FederationService>("demo", *store_);
    grpc::ServerBuilder builder;
    proto::ConfigureServer(builder);
    builder.AddListeningPort("127.0.0.1:0", *proto::ServerTls(coordinator_),
                             &port_);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    admin_ = Stub(coordinator_);
  }
  void TearDown() override {
    service_->Stop();
    server_->Shutdown(std::chrono::system_clock::now() +
                      std::chrono::seconds(60));
  }

  proto::TlsFiles Enrol(const proto::SpiffeId& id) {
    const std::string stem = absl::StrCat(folder_, "/", ++members_);
    const proto::KeyPair key = *proto::MakeKey();
    const std::string request = *proto::MakeRequest(key.private_pem, id);
    const std::string certificate = *proto::Issue(
        authority_, request, proto::InspectRequest(request)->fingerprint);
    EXPECT_TRUE(proto::WriteFileAtomic(stem + ".pem", certificate).ok());
    EXPECT_TRUE(
        proto::WriteFileAtomic(stem + ".key", key.private_pem, 0600).ok());
    return {folder_ + "/ca.pem", stem + ".pem", stem + ".key"};
  }
  std::unique_ptr<v1::Federation::Stub> Stub(const proto::TlsFiles& tls) {
    auto channel = proto::ClientChannel(absl::StrCat("127.0.0.1:", port_), tls,
                                        "coordinator");
    EXPECT_TRUE(channel.ok()) << channel.status();
    return v1::Federation::NewStub(*channel);
  }
  std::unique_ptr<v1::Federation::Stub> NodeStub(const std::string& owner,
                                                 const std::string& name) {
    return Stub(Enrol({"demo", "node", owner, name}));
  }
  grpc::Status Offer(v1::Federation::Stub& stub, const v1::TrainingPlan& plan,
                     std::vector<std::string>* offered_to = nullptr) {
    grpc::ClientContext context;
    v1::OfferReply reply;
    const grpc::Status status = stub.OfferPlan(&context, plan, &reply);
    if (offered_to != nullptr) {
      offered_to->assign(reply.offered_to().begin(), reply.offered_to().end());
    }
    return status;
  }
  v1::StatusReply Status() {
    grpc::ClientContext context;
    v1::StatusReply reply;
    const grpc::Status s = admin_->Status(&context, {}, &reply);
    EXPECT_TRUE(s.ok()) << s.error_message();
    return reply;
  }
  // Asks until it holds; the test's own time limit ends what never comes.
  template <typename Condition>
  v1::StatusReply StatusWhen(const Condition& condition) {
    for (;;) {
      v1::StatusReply reply = Status();
      if (condition(reply)) return reply;
    }
  }
  v1::StatusReply JobWhen(v1::JobState state) {
    return StatusWhen([&](const v1::StatusReply& reply) {
      return reply.jobs_size() > 0 && reply.jobs(0).state() == state;
    });
  }

  std::string folder_;
  int members_ = 0, port_ = 0;
  proto::Authority authority_;
  proto::TlsFiles coordinator_;
  std::unique_ptr<JobStore> store_;
  std::unique_ptr<FederationService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Federation::Stub> admin_;
};

// A node's end of its stream.
struct Dial {
  explicit Dial(std::unique_ptr<v1::Federation::Stub> s)
      : stub(std::move(s)), stream(stub->Subscribe(&context)) {}
  explicit Dial(v1::Federation::Stub& s) : stream(s.Subscribe(&context)) {}
  bool Hello(const std::vector<v1::NodeMessage>& jobs = {}) {
    v1::NodeMessage message;
    message.mutable_hello()->set_software("test 1");
    for (const auto& job : jobs) {
      *message.mutable_hello()->add_jobs() = job.update();
    }
    return stream->Write(message);
  }
  // The next offer's id; "" when the stream has ended.
  std::string Next() {
    v1::CoordinatorMessage message;
    if (!stream->Read(&message)) return "";
    return message.has_offer() ? message.offer().id()
                               : "cancel " + message.cancel_plan_id();
  }
  std::unique_ptr<v1::Federation::Stub> stub;
  grpc::ClientContext context;
  std::unique_ptr<Stream> stream;
};

TEST_F(FederationServiceTest, PlansGoToNodesThatAreThereAndThatCome) {
  Dial node(NodeStub("a.example", "one"));
  ASSERT_TRUE(node.Hello());
  StatusWhen([](const v1::StatusReply& r) {
    return r.nodes_size() == 1 && r.nodes(0).software() == "test 1";
  });
  std::vector<std::string> offered;
  ASSERT_TRUE(Offer(*admin_, Plan("p1"), &offered).ok());
  EXPECT_THAT(offered, ElementsAre("a.example/one"));
  EXPECT_EQ(node.Next(), "p1");
  // Not to those who are not asked.
  ASSERT_TRUE(Offer(*admin_, Plan("p2", {"b.example"}), &offered).ok());
  EXPECT_THAT(offered, IsEmpty());
  ASSERT_TRUE(Offer(*admin_, Plan("p3", {"a.example"}), &offered).ok());
  EXPECT_EQ(node.Next(), "p3");
  Dial later(NodeStub("b.example", "one"));
  ASSERT_TRUE(later.Hello());
  EXPECT_EQ(later.Next(), "p1");
  EXPECT_EQ(later.Next(), "p2");
}

TEST_F(FederationServiceTest, WhatANodeHasFinishedIsNotOfferedAgain) {
  ASSERT_TRUE(Offer(*admin_, Plan("p1")).ok());
  ASSERT_TRUE(Offer(*admin_, Plan("p2")).ok());
  Dial node(NodeStub("a.example", "one"));
  ASSERT_TRUE(node.Hello({Update("p1", v1::JOB_PUBLISHED),
                          Update("of another time", v1::JOB_TRAINING)}));
  EXPECT_EQ(node.Next(), "p2");
  EXPECT_EQ(Status().jobs_size(), 1);
}

TEST_F(FederationServiceTest, TheSamePlanAgainIsOfferedOnce) {
  Dial node(NodeStub("a.example", "one"));
  ASSERT_TRUE(node.Hello());
  StatusWhen([](const v1::StatusReply& r) { return r.nodes_size() == 1; });
  ASSERT_TRUE(Offer(*admin_, Plan("p1")).ok());
  ASSERT_TRUE(Offer(*admin_, Plan("p1")).ok());
  ASSERT_TRUE(Offer(*admin_, Plan("p2")).ok());
  EXPECT_EQ(node.Next(), "p1");
  EXPECT_EQ(node.Next(), "p2");
  v1::TrainingPlan other = Plan("p1");
  other.set_steps(11);
  EXPECT_EQ(Offer(*admin_, other).error_code(),
            grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(Offer(*admin_, Plan("../up")).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(FederationServiceTest, NodesAreNoAdministrators) {
  const auto registry = Stub(Enrol({"demo", "registry", "", "main"}));
  const auto node = NodeStub("a.example", "one");
  for (v1::Federation::Stub* stub : {node.get(), registry.get()}) {
    EXPECT_EQ(Offer(*stub, Plan("p1")).error_code(),
              grpc::StatusCode::PERMISSION_DENIED);
    grpc::ClientContext cancel, status;
    v1::CancelReply cancelled;
    v1::CancelRequest which;
    which.set_plan_id("p1");
    EXPECT_EQ(stub->CancelPlan(&cancel, which, &cancelled).error_code(),
              grpc::StatusCode::PERMISSION_DENIED);
    v1::StatusReply reply;
    EXPECT_EQ(stub->Status(&status, {}, &reply).error_code(),
              grpc::StatusCode::PERMISSION_DENIED);
  }
  EXPECT_EQ(Status().plans_size(), 0);
}

TEST_F(FederationServiceTest, OnlyNodesSubscribe) {
  Dial coordinator(*admin_);
  EXPECT_EQ(coordinator.Next(), "");
  EXPECT_EQ(coordinator.stream->Finish().error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  Dial registry(Stub(Enrol({"demo", "registry", "", "main"})));
  EXPECT_EQ(registry.Next(), "");
  EXPECT_EQ(registry.stream->Finish().error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Status().nodes_size(), 0);
}

TEST_F(FederationServiceTest, UpdatesAreTheirSendersWhateverTheySay) {
  ASSERT_TRUE(Offer(*admin_, Plan("p1")).ok());
  Dial node(NodeStub("a.example", "one"));
  ASSERT_TRUE(node.Hello(
      {Update("p1", v1::JOB_APPROVED, "b.example", "two")}));
  v1::StatusReply reply = JobWhen(v1::JOB_APPROVED);
  EXPECT_EQ(reply.jobs(0).owner(), "a.example");
  EXPECT_EQ(reply.jobs(0).node(), "one");
  ASSERT_TRUE(node.stream->Write(
      Update("p1", v1::JOB_PUBLISHED, "b.example", "two")));
  reply = JobWhen(v1::JOB_PUBLISHED);
  ASSERT_EQ(reply.jobs_size(), 1);
  EXPECT_EQ(reply.jobs(0).owner(), "a.example");
  EXPECT_EQ(reply.jobs(0).node(), "one");
}

TEST_F(FederationServiceTest, UpdateOfAForgottenPlanDoesNotEndTheStream) {
  Dial node(NodeStub("a.example", "one"));
  ASSERT_TRUE(node.Hello());
  ASSERT_TRUE(node.stream->Write(Update("gone", v1::JOB_TRAINING)));
  StatusWhen([](const v1::StatusReply& r) { return r.nodes_size() == 1; });
  ASSERT_TRUE(Offer(*admin_, Plan("p1")).ok());
  EXPECT_EQ(node.Next(), "p1");
  ASSERT_TRUE(node.stream->Write(Update("p1", v1::JOB_APPROVED)));
  EXPECT_EQ(JobWhen(v1::JOB_APPROVED).jobs_size(), 1);
}

TEST_F(FederationServiceTest, CancelReachesTheNode) {
  Dial node(NodeStub("a.example", "one"));
  ASSERT_TRUE(node.Hello());
  StatusWhen([](const v1::StatusReply& r) { return r.nodes_size() == 1; });
  grpc::ClientContext context;
  v1::CancelRequest request;
  request.set_plan_id("p1");
  v1::CancelReply reply;
  ASSERT_TRUE(admin_->CancelPlan(&context, request, &reply).ok());
  EXPECT_EQ(node.Next(), "cancel p1");
}

TEST_F(FederationServiceTest, SecondDialReplacesTheFirst) {
  const auto stub = NodeStub("a.example", "one");
  Dial first(*stub);
  ASSERT_TRUE(first.Hello());
  StatusWhen([](const v1::StatusReply& r) { return r.nodes_size() == 1; });
  Dial second(*stub);
  ASSERT_TRUE(second.Hello());
  EXPECT_EQ(first.Next(), "");  // ended by the second
  EXPECT_FALSE(first.stream->Finish().ok());
  std::vector<std::string> offered;
  ASSERT_TRUE(Offer(*admin_, Plan("p1"), &offered).ok());
  EXPECT_THAT(offered, ElementsAre("a.example/one"));
  EXPECT_EQ(second.Next(), "p1");
  const v1::StatusReply reply = Status();
  ASSERT_EQ(reply.nodes_size(), 1);
  EXPECT_TRUE(reply.nodes(0).connected());
}

TEST_F(FederationServiceTest, ANodeThatHangsUpIsShownSo) {
  {
    Dial node(NodeStub("a.example", "one"));
    ASSERT_TRUE(node.Hello());
    StatusWhen([](const v1::StatusReply& r) {
      return r.nodes_size() == 1 && r.nodes(0).connected();
    });
    ASSERT_TRUE(node.stream->WritesDone());
    EXPECT_EQ(node.Next(), "");
    EXPECT_TRUE(node.stream->Finish().ok());
  }
  const v1::StatusReply reply = StatusWhen([](const v1::StatusReply& r) {
    return r.nodes_size() == 1 && !r.nodes(0).connected();
  });
  EXPECT_EQ(reply.nodes(0).owner(), "a.example");
}

TEST_F(FederationServiceTest, StopEndsEveryStream) {
  Dial one(NodeStub("a.example", "one")), two(NodeStub("b.example", "one"));
  ASSERT_TRUE(one.Hello());
  ASSERT_TRUE(two.Hello());
  StatusWhen([](const v1::StatusReply& r) { return r.nodes_size() == 2; });
  service_->Stop();
  EXPECT_EQ(one.Next(), "");
  EXPECT_EQ(two.Next(), "");
  Dial late(NodeStub("c.example", "one"));
  EXPECT_EQ(late.Next(), "");
  EXPECT_EQ(late.stream->Finish().error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace motet::coordinator
