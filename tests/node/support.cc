// SPDX-License-Identifier: Apache-2.0
#include "tests/node/support.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/corpus.h"
#include "compose/package/package_folder.h"
#include "node/membership.h"
#include "node/policy.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/status.h"

namespace motet::node::testing {
namespace {

namespace fs = std::filesystem;

// Setup that cannot fail; the test's own subject is checked by expectations.
void Must(const absl::Status& status) {
  if (!status.ok()) {
    ADD_FAILURE() << status;
    abort();
  }
}
template <typename T>
T Must(absl::StatusOr<T> value) {
  Must(value.status());
  return *std::move(value);
}

class FakeClient final : public registry::Client {
 public:
  explicit FakeClient(FakeRegistry& registry) : registry_(registry) {}

  absl::StatusOr<v1::PublishReply> Publish(
      const std::string& folder, const std::string& id,
      const registry::PublishOptions& options) override {
    std::lock_guard lock(registry_.mutex);
    ++registry_.attempts;
    if (registry_.down || registry_.failures_left > 0) {
      if (registry_.failures_left > 0) --registry_.failures_left;
      return Down();
    }
    v1::PublishReply reply;
    const std::string sha256 = proto::Hex(
        Must(proto::Sha256File(folder + "/manifest.json")));
    if (const auto it = registry_.by_id.find(id);
        it != registry_.by_id.end()) {
      if (!registry_.by_id.contains(sha256)) {
        return absl::AlreadyExistsError("other bytes under " + id);
      }
      reply.set_already_published(true);
      return reply;
    }
    const std::string copy = absl::StrCat(registry_.folder, "/", sha256);
    fs::remove_all(copy);  // of a registry that a test has emptied
    fs::copy(folder, copy, fs::copy_options::recursive);
    registry_.by_id[id] = registry_.by_id[sha256] = copy;
    ++registry_.publishes;
    return reply;
  }

  absl::StatusOr<v1::PackageRecord> Fetch(
      const std::string& id, const std::string& folder,
      const registry::Progress& progress) override {
    std::lock_guard lock(registry_.mutex);
    if (registry_.down) return Down();
    const auto it = registry_.by_id.find(id);
    if (it == registry_.by_id.end()) return absl::NotFoundError(id);
    fs::copy(it->second, folder, fs::copy_options::recursive);
    return v1::PackageRecord();
  }

  absl::StatusOr<v1::PackageRecord> Inspect(const std::string& id) override {
    std::lock_guard lock(registry_.mutex);
    if (registry_.down) return Down();
    if (!registry_.by_id.contains(id)) return absl::NotFoundError(id);
    v1::PackageRecord record;
    record.set_revoked(registry_.revoked.contains(id));
    if (record.revoked()) record.set_revoked_reason("withdrawn");
    return record;
  }
  absl::StatusOr<std::vector<v1::PackageRecord>> List(
      const std::string&) override {
    return absl::UnimplementedError("not the node's");
  }
  absl::StatusOr<v1::LogEntry> Revoke(const std::string&,
                                      const std::string&) override {
    return absl::UnimplementedError("not the node's");
  }
  absl::StatusOr<std::vector<v1::LogEntry>> Log(uint64_t) override {
    return absl::UnimplementedError("not the node's");
  }

 private:
  static absl::Status Down() {
    return proto::Error(absl::StatusCode::kUnavailable, "registry",
                        "connection refused", "a registry");
  }
  FakeRegistry& registry_;
};

}  // namespace

std::string NewFolder(const std::string& name) {
  static std::atomic<int> count{0};
  const std::string folder = absl::StrCat(::testing::TempDir(), "/motet-node-",
                                          getpid(), "-", ++count, "-", name);
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

bool WaitFor(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
    usleep(2000);
  }
  return true;
}

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

TestFederation::TestFederation(const std::string& federation)
    : name(federation), folder(NewFolder("federation")) {
  authority = Must(proto::MakeAuthority(name));
  authority_path = folder + "/ca.pem";
  Must(proto::WriteFileAtomic(authority_path, authority.certificate_pem));
  coordinator = Enrol({name, "coordinator", "", "main"}, "coordinator");
  coordinator_key = ReadAll(coordinator.private_key);
  coordinator_certificate = ReadAll(coordinator.certificate);
}

proto::TlsFiles TestFederation::Enrol(const proto::SpiffeId& id,
                                      const std::string& stem) {
  const proto::KeyPair key = Must(proto::MakeKey());
  const std::string request = Must(proto::MakeRequest(key.private_pem, id));
  const proto::RequestInfo info = Must(proto::InspectRequest(request));
  const std::string certificate =
      Must(proto::Issue(authority, request, info.fingerprint));
  proto::TlsFiles files{authority_path, folder + "/" + stem + ".pem",
                        folder + "/" + stem + ".key"};
  Must(proto::WriteFileAtomic(files.certificate, certificate));
  Must(proto::WriteFileAtomic(files.private_key, key.private_pem, 0600));
  return files;
}

Settings TestFederation::JoinedNode(const std::string& address,
                                    const std::string& owner) {
  Settings s;
  s.dir = NewFolder("node");
  s.federation = name;
  s.owner = owner;
  s.node = "node1";
  s.domain = DomainOf(owner);
  s.title = "Test expert";
  s.coordinator = address;
  s.registry = "127.0.0.1:1";
  s.threads = 1;
  const InitResult init = Must(InitNode(s));
  const std::string certificate = Must(proto::Issue(
      authority, ReadAll(init.request_path), init.fingerprint));
  const std::string path = s.Path("issued.pem");
  Must(proto::WriteFileAtomic(path, certificate));
  Must(JoinFederation(s, path, authority_path));
  Must(proto::WriteFileAtomic(s.Path("policy.toml"), ApprovingPolicy()));
  Must(proto::MakeDirectories(s.Path("corpus")));
  Must(learn::WriteJsonl(s.Path("corpus/train.jsonl"),
                         SomeDocuments(40, "secret")));
  return s;
}

v1::TrainingPlan SomePlan(const std::string& id) {
  v1::TrainingPlan p;
  p.set_id(id);
  p.set_method("flexolmo");
  p.set_expert_version("1.0.0");
  p.set_steps(12);
  p.set_batch_sequences(4);
  p.set_sequence_tokens(16);
  p.set_learning_rate(3e-3);
  p.set_warmup_steps(2);
  p.set_final_lr_fraction(0.1);
  p.set_clip_norm(1);
  p.set_router_z_weight(1e-3);
  p.set_lm_z_weight(1e-5);
  p.set_public_fraction(1.0 / 3);
  p.set_seed(7);
  p.set_checkpoint_every(3);
  p.set_gate_quantile(0.97);
  p.set_smoothing(0.8);
  p.add_publishes("ffn weights");
  p.add_publishes("router row and bias");
  p.add_publishes("per-layer means and thresholds");
  p.set_issued_by("spiffe://demo/coordinator/main");
  p.set_issued_at("2026-01-01T00:00:00Z");
  p.set_statistics_tokens(512);
  return p;
}

std::vector<std::string> SomeDocuments(int count, const std::string& word) {
  std::vector<std::string> documents;
  for (int i = 0; i < count; ++i) {
    documents.push_back(absl::StrCat(
        "The ", word, " of number ", i * 7919 % 1000,
        " is kept in drawer ", i, " of the ", word, " cabinet, and ", i * 31,
        " keys open it when the bell rings ", i % 7, " times."));
  }
  return documents;
}

std::string ApprovingPolicy() {
  return "[approve]\nmethods = [\"flexolmo\"]\npublish = [\"ffn weights\", "
         "\"router row and bias\", \"per-layer means and thresholds\"]\n"
         "[licence]\nspdx = \"CC-BY-4.0\"\nforbidden_purposes = "
         "[\"advertising\"]\n[statistics]\nmin_documents = 4\n";
}

FakeCoordinator::FakeCoordinator(const proto::TlsFiles& tls,
                                 const std::string& federation)
    : federation_(federation) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", Must(proto::ServerTls(tls)), &port_);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
}

FakeCoordinator::~FakeCoordinator() {
  DropStreams();
  server_->Shutdown(std::chrono::system_clock::now());
}

std::string FakeCoordinator::address() const {
  return absl::StrCat("127.0.0.1:", port_);
}

grpc::Status FakeCoordinator::Subscribe(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::NodeMessage>*
        stream) {
  const auto peer = proto::PeerOf(*context, federation_);
  if (!peer.ok()) return proto::ToGrpc(peer.status());
  {
    std::lock_guard lock(mutex_);
    ++connections_;
    streams_.insert({context, stream});
    for (const auto& offer : offers_) stream->Write(offer);
  }
  v1::NodeMessage message;
  while (stream->Read(&message)) {
    std::lock_guard lock(mutex_);
    messages_.push_back(message);
  }
  std::lock_guard lock(mutex_);
  streams_.erase({context, stream});
  return grpc::Status::OK;
}

void FakeCoordinator::SendAll(const v1::CoordinatorMessage& message) {
  for (const auto& [context, stream] : streams_) stream->Write(message);
}

void FakeCoordinator::Offer(const v1::TrainingPlan& plan) {
  v1::CoordinatorMessage message;
  *message.mutable_offer() = plan;
  std::lock_guard lock(mutex_);
  offers_.push_back(message);
  SendAll(message);
}

void FakeCoordinator::Cancel(const std::string& plan_id) {
  v1::CoordinatorMessage message;
  message.set_cancel_plan_id(plan_id);
  std::lock_guard lock(mutex_);
  SendAll(message);
}

void FakeCoordinator::DropStreams() {
  std::lock_guard lock(mutex_);
  for (const auto& [context, stream] : streams_) context->TryCancel();
}

int FakeCoordinator::connections() const {
  std::lock_guard lock(mutex_);
  return connections_;
}

std::vector<v1::NodeMessage> FakeCoordinator::messages() const {
  std::lock_guard lock(mutex_);
  return messages_;
}

v1::JobUpdate FakeCoordinator::Last(const std::string& plan_id) const {
  v1::JobUpdate last;
  for (const v1::NodeMessage& m : messages()) {
    if (m.has_update() && m.update().plan_id() == plan_id) last = m.update();
    for (const v1::JobUpdate& u : m.hello().jobs()) {
      if (u.plan_id() == plan_id) last = u;
    }
  }
  return last;
}

void FakeRegistry::Put(const std::string& id,
                       const std::string& package_folder) {
  const std::string sha256 = proto::Hex(
      Must(proto::Sha256File(package_folder + "/manifest.json")));
  by_id[id] = by_id[sha256] = package_folder;
}

std::unique_ptr<registry::Client> FakeRegistry::NewClient() {
  return std::make_unique<FakeClient>(*this);
}

}  // namespace motet::node::testing
