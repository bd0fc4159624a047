// SPDX-License-Identifier: Apache-2.0
// Embed and Search over real mTLS on a free port: the certificate is the
// tenant, whatever the request says, and the answers are HTTP's.
#include "coordinator/retrieval_service.h"

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "proto/channel.h"
#include "proto/files.h"
#include "proto/identity.h"
#include "tests/coordinator/tiny_retrieval.h"

namespace motet::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RetrievalServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    authority_ = *proto::MakeAuthority("demo");
    ASSERT_TRUE(
        proto::WriteFileAtomic(Path("ca.pem"), authority_.certificate_pem)
            .ok());
    tiny_.StartEngine();
    retrieval_ = tiny_.Open({"notes"});
    service_ = std::make_unique<RetrievalService>("demo", *retrieval_);
    grpc::ServerBuilder builder;
    proto::ConfigureServer(builder);
    builder.AddListeningPort(
        "127.0.0.1:0",
        *proto::ServerTls(Enrol({"demo", "coordinator", "", "main"})), &port_);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  void TearDown() override { server_->Shutdown(); }
  std::string Path(const std::string& name) const {
    return tiny_.folder() + "/" + name;
  }
  proto::TlsFiles Enrol(const proto::SpiffeId& id) {
    const std::string stem = Path(absl::StrCat(++members_));
    const proto::KeyPair key = *proto::MakeKey();
    const std::string request = *proto::MakeRequest(key.private_pem, id);
    const std::string certificate = *proto::Issue(
        authority_, request, proto::InspectRequest(request)->fingerprint);
    EXPECT_TRUE(proto::WriteFileAtomic(stem + ".pem", certificate).ok());
    EXPECT_TRUE(
        proto::WriteFileAtomic(stem + ".key", key.private_pem, 0600).ok());
    return {Path("ca.pem"), stem + ".pem", stem + ".key"};
  }
  std::unique_ptr<v1::Retrieval::Stub> NodeOf(const std::string& owner) {
    auto channel = proto::ClientChannel(absl::StrCat("127.0.0.1:", port_),
                                        Enrol({"demo", "node", owner, "n1"}),
                                        "coordinator");
    EXPECT_TRUE(channel.ok()) << channel.status();
    return v1::Retrieval::NewStub(*channel);
  }

  TinyRetrieval tiny_;
  proto::Authority authority_;
  int members_ = 0, port_ = 0;
  std::unique_ptr<Retrieval> retrieval_;
  std::unique_ptr<RetrievalService> service_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(RetrievalServiceTest, TheCertificateIsTheTenant) {
  v1::EmbedRequest request;
  request.set_model("finder");
  request.add_input("salt water");
  // A rival cannot be someone else by saying so.
  request.set_tenant("friend.example");
  const auto rival = NodeOf("rival.example"), own = NodeOf("friend.example");
  v1::EmbedReply reply;
  {
    grpc::ClientContext context;
    const grpc::Status status = rival->Embed(&context, request, &reply);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  EXPECT_THAT(reply.end().experts(),
              ElementsAre("demo/encoder@1.0.0", "code.example/code@1.0.0"));
  ASSERT_EQ(reply.embeddings_size(), 1);
  EXPECT_EQ(std::vector<float>(reply.embeddings(0).values().begin(),
                               reply.embeddings(0).values().end()),
            tiny_.Direct("salt water", 0b011).vectors.values);
  EXPECT_EQ(reply.embeddings(0).expert(), "code.example/code@1.0.0");
  {
    grpc::ClientContext context;
    ASSERT_TRUE(own->Embed(&context, request, &reply).ok());
  }
  EXPECT_EQ(reply.end().experts_size(), 3);
  // Asked for by name, it is refused.
  request.mutable_experts()->add_include("legal");
  grpc::ClientContext context;
  const grpc::Status refused = rival->Embed(&context, request, &reply);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(refused.error_message(), HasSubstr("rival.example"));
}

TEST_F(RetrievalServiceTest, SearchesWithTheSameFields) {
  v1::SearchRequest request;
  request.set_model("finder@no-code@no-legal");
  request.add_queries("salt water of the sea");
  request.set_text(true);
  const auto stub = NodeOf("friend.example");
  v1::SearchReply reply;
  const auto search = [&] {
    grpc::ClientContext context;
    return stub->Search(&context, request, &reply);
  };
  // No default here: k is a number, and 0 finds nothing.
  EXPECT_EQ(search().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_k(2);
  const grpc::Status status = search();
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(reply.results_size(), 1);
  ASSERT_EQ(reply.results(0).documents_size(), 2);
  EXPECT_EQ(reply.results(0).documents(0).id(), "sea");
  EXPECT_EQ(reply.results(0).documents(0).text(), "salt water of the sea");
  EXPECT_EQ(reply.results(0).documents(0).metadata(),
            "{\"wet\":\"true\",\"year\":\"1999\"}");
  EXPECT_EQ(reply.end().experts_size(), 1);
  v1::SearchFilter* filter = request.add_filters();
  filter->set_field("colour");
  EXPECT_EQ(search().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  filter->set_field("year");
  filter->set_value("2001");
  ASSERT_TRUE(search().ok());
  EXPECT_EQ(reply.results(0).documents_size(), 1);
  request.set_index("x");
  EXPECT_EQ(search().error_code(), grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace motet::coordinator
