// SPDX-License-Identifier: Apache-2.0
// A small federation for the node's tests: authority, a joined node's folder,
// certificates of a coordinator, a coordinator that only listens and offers,
// and a registry that is a map.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "node/daemon.h"
#include "node/settings.h"
#include "proto/identity.h"
#include "registry/client.h"
#include "training.grpc.pb.h"

namespace grpc {
class Server;
}

namespace motet::node::testing {

// A new empty folder below testing::TempDir().
std::string NewFolder(const std::string& name);
// Waits up to two minutes; false when the condition never came.
bool WaitFor(const std::function<bool()>& condition);
std::string ReadAll(const std::string& path);

struct TestFederation {
  explicit TestFederation(const std::string& federation = "demo");
  std::string name;
  std::string folder;
  proto::Authority authority;
  std::string authority_path;
  proto::TlsFiles coordinator;  // of spiffe://demo/coordinator/main
  std::string coordinator_key, coordinator_certificate;  // contents

  // A certificate for any id; writes NAME.key and NAME.pem.
  proto::TlsFiles Enrol(const proto::SpiffeId& id, const std::string& stem);
  // A node's folder, joined, with a corpus and a policy that approves.
  Settings JoinedNode(const std::string& address,
                      const std::string& owner = "code.example");
};

// Every plan field sensible; base digests are to be filled in.
v1::TrainingPlan SomePlan(const std::string& id = "plan-1");
// Documents of a toy language, distinct, of more than 20 bytes each.
std::vector<std::string> SomeDocuments(int count, const std::string& word);
// policy.toml that approves plans like SomePlan.
std::string ApprovingPolicy();

// The server side of Federation, as a recorder.
class FakeCoordinator final : public v1::Federation::Service {
 public:
  explicit FakeCoordinator(const proto::TlsFiles& tls,
                           const std::string& federation = "demo");
  ~FakeCoordinator() override;
  std::string address() const;
  // Sent to the connected node, and to each that connects later.
  void Offer(const v1::TrainingPlan& plan);
  void Cancel(const std::string& plan_id);
  void DropStreams();
  int connections() const;
  std::vector<v1::NodeMessage> messages() const;
  // The last state that the node told of the plan.
  v1::JobUpdate Last(const std::string& plan_id) const;

  grpc::Status Subscribe(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::NodeMessage>*
          stream) override;

 private:
  void SendAll(const v1::CoordinatorMessage& message);
  const std::string federation_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  mutable std::mutex mutex_;
  int connections_ = 0;
  std::vector<v1::NodeMessage> messages_;
  std::vector<v1::CoordinatorMessage> offers_;
  std::set<std::pair<grpc::ServerContext*,
                     grpc::ServerReaderWriter<v1::CoordinatorMessage,
                                              v1::NodeMessage>*>>
      streams_;
};

// Packages by id, as folders on disk; shared by the clients made from it.
struct FakeRegistry {
  std::string folder;                        // holds the packages' copies
  std::map<std::string, std::string> by_id;  // id or manifest hex -> folder
  bool down = false;
  int failures_left = 0;      // publishes that fail with Unavailable first
  int publishes = 0;          // that succeeded
  int attempts = 0;
  std::set<std::string> revoked;  // ids or manifest hex
  mutable std::mutex mutex;

  explicit FakeRegistry(const std::string& folder) : folder(folder) {}
  void Put(const std::string& id, const std::string& package_folder);
  std::unique_ptr<registry::Client> NewClient();
};

// A base package as the coordinator makes it: a tiny olmo2 model with its
// tokenizer, anchor and public text. Returns its folder. bf16: its matrices.
std::string MakeBasePackage(const TestFederation& federation,
                            const std::string& folder, bool bf16 = false);
// The reference that a plan holds to the package in `folder`.
v1::BaseReference ReferenceTo(const std::string& folder);

}  // namespace motet::node::testing
