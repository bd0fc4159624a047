// SPDX-License-Identifier: Apache-2.0
// The registry over real mutual TLS on a free port: what members may do, and
// what it refuses.
#include "registry/service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/digest.h"
#include "registry/client.h"
#include "registry/memory_store.h"
#include "registry/record.h"
#include "registry/rocks_store.h"
#include "tests/registry/fixture.h"

namespace motet::registry {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kId[] = "alto.example/cantus@1.0.0";

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

class ServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    store_ = std::make_shared<MemoryStore>();
    server_ = Serve(federation_, store_);
  }
  std::string Package(const std::string& id, const Member& signer,
                      uint32_t seed = 1) {
    return WritePackage(folder_ / absl::StrCat("package", packages_++), id,
                        signer,
                        {{"weights.safetensors", Noise(3'500'000, seed)},
                         {"README.md", "# read me\n"}});
  }
  void ExpectNothingPublished() {
    EXPECT_EQ(*store_->LogSize(), 0u);
    EXPECT_TRUE(store_->List("", "", 10)->records.empty());
  }
  // Publishes by the raw protocol; `change` may alter record and chunks.
  absl::Status RawPublish(const Member& member, const v1::PackageRecord& record,
                          const std::vector<std::string>& chunks) {
    auto channel =
        proto::ClientChannel(server_->address(), member.tls, "registry");
    const auto stub = v1::Registry::NewStub(*channel);
    grpc::ClientContext context;
    v1::PublishReply reply;
    const auto writer = stub->Publish(&context, &reply);
    v1::PublishRequest request;
    *request.mutable_record() = record;
    writer->Write(request);
    for (const std::string& chunk : chunks) {
      request.set_chunk(chunk);
      if (!writer->Write(request)) break;
    }
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        status.error_message());
  }

  Federation federation_;
  TempFolder folder_;
  std::shared_ptr<Store> store_;
  std::unique_ptr<Server> server_;
  Member alto_ = federation_.Node("alto.example");
  Member bass_ = federation_.Node("bass.example");
  Member coordinator_ = federation_.Server("coordinator");
  int packages_ = 0;
};

v1::PackageRecord Describe(const std::string& folder, const std::string& id,
                           std::vector<std::string>* chunks) {
  v1::PackageRecord record;
  record.set_id(id);
  for (const auto& [path, bytes] : ReadFolder(folder)) {
    *record.add_files() = *DescribeFile(folder + "/" + path, path, {});
    uint64_t offset = 0;
    for (const auto& chunk : record.files().rbegin()->chunks()) {
      chunks->push_back(bytes.substr(offset, chunk.size_bytes()));
      offset += chunk.size_bytes();
    }
  }
  record.set_manifest_sha256(FindFile(record, "manifest.json")->sha256());
  return record;
}

TEST_F(ServiceTest, PublishAndFetchAreBitEqual) {
  const std::string package =
      WritePackage(folder_ / "package", kId, alto_,
                   {{"weights.safetensors", Noise(3'500'000, 1)},
                    {"empty", ""},
                    {"zeros.bin", std::string(5 << 20, '\0')},
                    {"sub/folder/notes.txt", "nested\n"}});
  const auto alto = Connect(*server_, alto_);
  PublishOptions options;
  options.cuts["weights.safetensors"] = {100, 3'000'000};
  uint64_t last = 0, total = 0;
  options.progress = [&](uint64_t done, uint64_t all) {
    EXPECT_GE(done, last);
    last = done;
    total = all;
    return true;
  };
  const auto published = alto->Publish(package, kId, options);
  ASSERT_TRUE(published.ok()) << published.status();
  EXPECT_FALSE(published->already_published());
  EXPECT_EQ(published->record().publisher(), alto_.id.ToString());
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, TotalBytes(published->record()));

  // Another member fetches, by id and by digest.
  const auto bass = Connect(*server_, bass_);
  const auto fetched = bass->Fetch(kId, folder_ / "by-id", nullptr);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  EXPECT_EQ(ReadFolder(folder_ / "by-id"), ReadFolder(package));
  // Cut where it was asked to be, and nowhere longer than 1 MiB.
  const v1::FileEntry* weights = FindFile(*fetched, "weights.safetensors");
  EXPECT_EQ(weights->chunks(0).size_bytes(), 100u);
  EXPECT_EQ(weights->chunks(3).size_bytes(), 3'000'000u - 100 - (2 << 20));
  const std::string sha256 = proto::Hex(fetched->manifest_sha256());
  ASSERT_TRUE(bass->Fetch(sha256, folder_ / "by-digest", nullptr).ok());
  EXPECT_EQ(ReadFolder(folder_ / "by-digest"), ReadFolder(package));
  EXPECT_EQ(bass->Inspect(sha256)->id(), kId);
}

TEST_F(ServiceTest, AnotherOwnersIdIsRefused) {
  const std::string package = Package(kId, bass_);
  const auto result = Connect(*server_, bass_)->Publish(package, kId, {});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(Message(result.status()),
              AllOf(HasSubstr(kId), HasSubstr("want a node of the owner "
                                              "alto.example")));
  ExpectNothingPublished();
}

TEST_F(ServiceTest, SignatureByAnotherOwnerIsRefused) {
  const std::string package = Package(kId, bass_);
  const auto result = Connect(*server_, alto_)->Publish(package, kId, {});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kPermissionDenied)
      << result.status();
  ExpectNothingPublished();
}

TEST_F(ServiceTest, SignatureOfAnotherAuthorityIsRefused) {
  Federation other("choir");
  const std::string package = Package(kId, other.Node("alto.example"));
  const auto result = Connect(*server_, alto_)->Publish(package, kId, {});
  EXPECT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), absl::StatusCode::kPermissionDenied)
      << result.status();
  ExpectNothingPublished();
}

TEST_F(ServiceTest, SignatureForAnotherIdIsRefused) {
  const std::string package = Package("alto.example/cantus@9.9.9", alto_);
  const auto result = Connect(*server_, alto_)->Publish(package, kId, {});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(result.status()), HasSubstr("cantus@9.9.9"));
  ExpectNothingPublished();
}

TEST_F(ServiceTest, FileChangedAfterSigningIsRefusedByName) {
  const std::string package = Package(kId, alto_);
  std::string weights = ReadFile(package + "/weights.safetensors");
  weights[weights.size() / 2] ^= 1;
  WriteFile(package + "/weights.safetensors", weights);
  const auto result = Connect(*server_, alto_)->Publish(package, kId, {});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(result.status()), HasSubstr("weights.safetensors"));
  ExpectNothingPublished();
}

TEST_F(ServiceTest, FileAddedAfterSigningIsRefusedByName) {
  const std::string package = Package(kId, alto_);
  WriteFile(package + "/extra.txt", "not signed");
  const auto result = Connect(*server_, alto_)->Publish(package, kId, {});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(result.status()), HasSubstr("extra.txt unsigned"));
  ExpectNothingPublished();
}

TEST_F(ServiceTest, MissingSignatureIsRefusedBeforeAnythingIsSent) {
  const std::string package = Package(kId, alto_);
  ASSERT_EQ(remove((package + "/model.sig").c_str()), 0);
  const auto result = Connect(*server_, alto_)->Publish(package, kId, {});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(result.status()), HasSubstr("no model.sig"));
}

TEST_F(ServiceTest, ChunkAlteredOnTheWayIsRefused) {
  std::vector<std::string> chunks;
  const v1::PackageRecord record = Describe(Package(kId, alto_), kId, &chunks);
  chunks[3][17] ^= 1;
  const absl::Status status = RawPublish(alto_, record, chunks);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(Message(status), HasSubstr("one that the record names"));
  ExpectNothingPublished();
}

TEST_F(ServiceTest, RecordThatLiesAboutAFileIsRefused) {
  std::vector<std::string> chunks;
  v1::PackageRecord record = Describe(Package(kId, alto_), kId, &chunks);
  record.mutable_files(0)->set_sha256(std::string(32, 'x'));
  const absl::Status status = RawPublish(alto_, record, chunks);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(Message(status), HasSubstr(record.files(0).path()));
  ExpectNothingPublished();
}

TEST_F(ServiceTest, StreamWithoutARecordIsRefused) {
  auto channel =
      proto::ClientChannel(server_->address(), alto_.tls, "registry");
  const auto stub = v1::Registry::NewStub(*channel);
  grpc::ClientContext context;
  v1::PublishReply reply;
  const auto writer = stub->Publish(&context, &reply);
  v1::PublishRequest request;
  request.set_chunk("bytes");
  writer->Write(request);
  writer->WritesDone();
  EXPECT_EQ(writer->Finish().error_code(), grpc::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, WhatAPublisherCannotSetIsSetByTheRegistry) {
  std::vector<std::string> chunks;
  v1::PackageRecord record = Describe(Package(kId, alto_), kId, &chunks);
  record.set_publisher("spiffe://choir/owner/bass.example/node/one");
  record.set_published_at("1066-10-14");
  record.set_log_index(77);
  record.set_revoked(true);
  ASSERT_TRUE(RawPublish(alto_, record, chunks).ok());
  const auto stored = store_->Get(kId);
  EXPECT_EQ(stored->publisher(), alto_.id.ToString());
  EXPECT_EQ(stored->log_index(), 0u);
  EXPECT_FALSE(stored->revoked());
  EXPECT_NE(stored->published_at(), "1066-10-14");
}

TEST_F(ServiceTest, SameBytesAgainSucceedOtherBytesDoNot) {
  const std::string package = Package(kId, alto_);
  const auto alto = Connect(*server_, alto_);
  ASSERT_TRUE(alto->Publish(package, kId, {}).ok());
  const auto again = alto->Publish(package, kId, {});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->already_published());
  EXPECT_EQ(*store_->LogSize(), 1u);
  const auto other = alto->Publish(Package(kId, alto_, 2), kId, {});
  EXPECT_EQ(other.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Message(other.status()), HasSubstr("new version"));
}

TEST_F(ServiceTest, ResumedPublishSendsOnlyMissingChunks) {
  const std::string package = Package(kId, alto_);
  std::vector<std::string> chunks;
  const v1::PackageRecord record = Describe(package, kId, &chunks);
  // An interrupted one: two chunks, then the end.
  const absl::Status cut = RawPublish(alto_, record, {chunks[1], chunks[4]});
  EXPECT_EQ(cut.code(), absl::StatusCode::kAborted) << cut;
  ExpectNothingPublished();
  size_t sent = 0;
  uint64_t first = 0;
  PublishOptions options;
  options.progress = [&](uint64_t done, uint64_t) {
    if (sent++ == 0) first = done;
    return true;
  };
  const auto result = Connect(*server_, alto_)->Publish(package, kId, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(sent, chunks.size() - 2);
  EXPECT_GE(first, chunks[1].size() + chunks[4].size());
}

TEST_F(ServiceTest, PublishIsStoppedByItsProgress) {
  PublishOptions options;
  options.progress = [](uint64_t, uint64_t) { return false; };
  const auto result =
      Connect(*server_, alto_)->Publish(Package(kId, alto_), kId, options);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled);
  ExpectNothingPublished();
}

TEST_F(ServiceTest, UnchangedFilesOfANewVersionAreNotSentAgain) {
  const auto alto = Connect(*server_, alto_);
  ASSERT_TRUE(alto->Publish(Package(kId, alto_), kId, {}).ok());
  const std::string next = "alto.example/cantus@1.0.1";
  int sent = 0;
  PublishOptions options;
  options.progress = [&](uint64_t, uint64_t) { return ++sent > 0; };
  ASSERT_TRUE(alto->Publish(Package(next, alto_), next, options).ok());
  EXPECT_EQ(sent, 2);  // manifest.json and model.sig
}

TEST_F(ServiceTest, OnlyTheCoordinatorPublishesTheBase) {
  const std::string base = "choir/base@1.0.0";
  const std::string package = Package(base, coordinator_);
  EXPECT_EQ(
      Connect(*server_, alto_)->Publish(package, base, {}).status().code(),
      absl::StatusCode::kPermissionDenied);
  // Nor a node whose owner was given the federation's name by mistake.
  const Member impostor = federation_.Node("choir");
  EXPECT_EQ(
      Connect(*server_, impostor)->Publish(package, base, {}).status().code(),
      absl::StatusCode::kPermissionDenied);
  const auto coordinator = Connect(*server_, coordinator_);
  const auto result = coordinator->Publish(package, base, {});
  EXPECT_TRUE(result.ok()) << result.status();
  // And nothing but the base's owner name.
  EXPECT_EQ(
      coordinator->Publish(Package(kId, coordinator_), kId, {}).status().code(),
      absl::StatusCode::kPermissionDenied);
}

TEST_F(ServiceTest, RevocationByOwnerAndCoordinatorOnly) {
  const auto alto = Connect(*server_, alto_);
  const std::string second = "alto.example/cantus@1.0.1";
  ASSERT_TRUE(alto->Publish(Package(kId, alto_), kId, {}).ok());
  ASSERT_TRUE(alto->Publish(Package(second, alto_, 2), second, {}).ok());
  const auto denied = Connect(*server_, bass_)->Revoke(kId, "envy");
  EXPECT_EQ(denied.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(alto->Revoke(kId, "").status().code(),
            absl::StatusCode::kInvalidArgument);
  const auto own = alto->Revoke(kId, "superseded");
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(own->index(), 2u);
  const auto quarantine =
      Connect(*server_, coordinator_)->Revoke(second, "under review");
  ASSERT_TRUE(quarantine.ok()) << quarantine.status();
  EXPECT_EQ(quarantine->actor(), coordinator_.id.ToString());

  EXPECT_TRUE(alto->Inspect(kId)->revoked());
  const auto fetched = alto->Fetch(kId, folder_ / "fetched", nullptr);
  EXPECT_EQ(fetched.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(fetched.status()), HasSubstr("superseded"));
  EXPECT_EQ(alto->Publish(Package(kId, alto_, 3), kId, {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(ServiceTest, ListAndLog) {
  const auto alto = Connect(*server_, alto_);
  for (int i = 0; i < 3; ++i) {
    const std::string id = absl::StrCat("alto.example/cantus@1.0.", i);
    ASSERT_TRUE(alto->Publish(Package(id, alto_, i), id, {}).ok());
  }
  const std::string other = "bass.example/ground@2.0.0-rc1";
  ASSERT_TRUE(
      Connect(*server_, bass_)->Publish(Package(other, bass_), other, {}).ok());
  ASSERT_TRUE(alto->Revoke(kId, "old").ok());
  const auto all = alto->List("");
  ASSERT_EQ(all->size(), 4u);
  EXPECT_TRUE((*all)[0].revoked());
  EXPECT_EQ((*all)[3].id(), other);
  EXPECT_EQ(alto->List("bass.example/")->size(), 1u);
  EXPECT_EQ(alto->List("tenor")->size(), 0u);
  const auto log = alto->Log(0);
  ASSERT_EQ(log->size(), 5u);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ((*log)[i].index(), i);
  EXPECT_EQ((*log)[4].action(), v1::LOG_REVOKE);
  EXPECT_EQ(alto->Log(3)->size(), 2u);
  EXPECT_EQ(alto->Log(50)->size(), 0u);
}

TEST_F(ServiceTest, BadIdsAndUnknownPackagesAreNamed) {
  const auto alto = Connect(*server_, alto_);
  EXPECT_EQ(alto->Inspect("alto.example/none@1.0.0").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(alto->Inspect(std::string(64, '0')).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(alto->Inspect("nonsense").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(alto->Inspect("alto.example/../x@1").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ServiceTest, NoCertificateNoService) {
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = ReadFile(alto_.tls.authority);
  for (const auto& credentials :
       {grpc::InsecureChannelCredentials(), grpc::SslCredentials(tls)}) {
    const auto stub = v1::Registry::NewStub(
        grpc::CreateChannel(server_->address(), credentials));
    grpc::ClientContext context;
    v1::ListReply reply;
    EXPECT_FALSE(stub->List(&context, v1::ListRequest(), &reply).ok());
  }
}

TEST_F(ServiceTest, CertificateOfAnotherAuthorityIsRefused) {
  Federation other("choir");
  const auto stranger = Connect(*server_, other.Node("alto.example"));
  const auto list = stranger->List("");
  EXPECT_EQ(list.status().code(), absl::StatusCode::kUnavailable)
      << list.status();
  EXPECT_THAT(Message(list.status()), HasSubstr(server_->address()));
}

TEST_F(ServiceTest, RegistryThatIsDownIsUnavailableWithItsAddress) {
  const auto alto = Connect(*server_, alto_);
  const std::string address = server_->address();
  server_.reset();
  const auto result = alto->Publish(Package(kId, alto_), kId, {});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(result.status()), HasSubstr(address));
}

TEST_F(ServiceTest, PortInUseIsUnavailable) {
  ServerOptions options;
  options.federation = "choir";
  options.address = server_->address();
  options.tls = federation_.Server("registry").tls;
  const auto second = Server::Start(options, store_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(second.status()), HasSubstr(server_->address()));
}

TEST_F(ServiceTest, OnlyARegistrysCertificateServes) {
  ServerOptions options;
  options.federation = "choir";
  options.address = "127.0.0.1:0";
  options.tls = alto_.tls;
  EXPECT_EQ(Server::Start(options, store_).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace motet::registry
