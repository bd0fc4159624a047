// SPDX-License-Identifier: Apache-2.0
// The gRPC client behind registry/client.h. Private to the client.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "registry.grpc.pb.h"
#include "registry/client.h"

namespace motet::registry {

class GrpcClient : public Client {
 public:
  GrpcClient(const std::string& address,
             std::shared_ptr<grpc::Channel> channel);

  absl::StatusOr<v1::PublishReply> Publish(
      const std::string& folder, const std::string& id,
      const PublishOptions& options) override;
  absl::StatusOr<v1::PackageRecord> Fetch(const std::string& id_or_sha256,
                                          const std::string& folder,
                                          const Progress& progress) override;
  absl::StatusOr<v1::PackageRecord> Inspect(
      const std::string& id_or_sha256) override;
  absl::StatusOr<std::vector<v1::PackageRecord>> List(
      const std::string& prefix) override;
  absl::StatusOr<v1::LogEntry> Revoke(const std::string& id,
                                      const std::string& reason) override;
  absl::StatusOr<std::vector<v1::LogEntry>> Log(uint64_t from) override;

 private:
  const std::string peer_;  // "registry host:port", for messages
  const std::unique_ptr<v1::Registry::StubInterface> stub_;
};

// Receives the chunks of `record` into `partial` (docs of Client::Fetch): what
// is there already is checked and kept, every file's digest is verified and
// the bytes are durable when OK is returned.
absl::Status FetchFiles(v1::Registry::StubInterface* stub,
                        const std::string& peer,
                        const v1::PackageRecord& record,
                        const std::string& partial, const Progress& progress);

}  // namespace motet::registry
