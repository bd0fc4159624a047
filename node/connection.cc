// SPDX-License-Identifier: Apache-2.0
#include "node/connection.h"

#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/identity.h"
#include "proto/status.h"

namespace motet::node {
namespace {

using Milliseconds = std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr Milliseconds kSettled(2000);

// The server's SPIFFE id as TLS authenticated it; "" when gRPC has none.
std::string PeerId(const grpc::ClientContext& context) {
  const auto auth = context.auth_context();
  if (auth == nullptr) return "";
  for (const char* property : {"peer_spiffe_id", "peer_uri"}) {
    for (const grpc::string_ref& value :
         auth->FindPropertyValues(property)) {
      const std::string id(value.data(), value.size());
      if (proto::ParseSpiffeId(id).ok()) return id;
    }
  }
  return "";
}

}  // namespace

struct Connection::Stream {
  std::shared_ptr<grpc::Channel> channel;
  grpc::ClientContext context;
  std::unique_ptr<v1::Federation::Stub> stub;
  std::unique_ptr<
      grpc::ClientReaderWriter<v1::NodeMessage, v1::CoordinatorMessage>>
      call;
};

Connection::Connection(ConnectionOptions options)
    : options_(std::move(options)) {}

Connection::~Connection() { Stop(); }

bool Connection::connected() const {
  std::lock_guard lock(mutex_);
  return connected_;
}

std::string Connection::last_error() const {
  std::lock_guard lock(mutex_);
  return last_error_;
}

void Connection::Stop() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  if (stream_ != nullptr) stream_->context.TryCancel();
  changed_.notify_all();
}

void Connection::Send(const v1::JobUpdate& update, bool urgent) {
  std::lock_guard lock(mutex_);
  if (!connected_) return;
  dirty_[update.plan_id()] = update;
  urgent_ |= urgent;
  changed_.notify_all();
}

bool Connection::WaitMs(int ms) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, Milliseconds(ms),
                            [this] { return stopped_; });
}

void Connection::Run() {
  int backoff_ms = options_.first_backoff_ms;
  for (;;) {
    bool was_up = false;
    const absl::Status status = Serve(&was_up);
    const std::string error =
        status.ok() ? absl::StrCat("[coordinator ", options_.address,
                                   "] closed the connection")
                    : std::string(status.message());
    bool news = was_up;
    {
      std::lock_guard lock(mutex_);
      if (stopped_) return;
      news |= error != last_error_;
      last_error_ = error;
    }
    if (was_up) backoff_ms = options_.first_backoff_ms;
    if (news) {
      spdlog::warn("{}", error);
      spdlog::info("dialling {} again until it answers", options_.address);
    }
    if (!WaitMs(backoff_ms)) return;
    backoff_ms = std::min(backoff_ms * 2, options_.longest_backoff_ms);
  }
}

absl::Status Connection::Dial(Stream& stream) {
  MOTET_ASSIGN_OR_RETURN(
      stream.channel,
      proto::ClientChannel(options_.address, options_.tls, "coordinator"));
  // In slices, so that Stop is heard; a channel that failed already is used
  // all the same: the call's status then says why.
  const auto deadline = Clock::now() + Milliseconds(options_.connect_ms);
  for (grpc_connectivity_state state = stream.channel->GetState(true);
       state != GRPC_CHANNEL_READY && Clock::now() < deadline;
       state = stream.channel->GetState(true)) {
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE ||
        state == GRPC_CHANNEL_SHUTDOWN) {
      break;
    }
    {
      std::lock_guard lock(mutex_);
      if (stopped_) return absl::CancelledError("stopped");
    }
    stream.channel->WaitForStateChange(
        state, std::chrono::system_clock::now() + Milliseconds(100));
  }
  stream.stub = v1::Federation::NewStub(stream.channel);
  return absl::OkStatus();
}

absl::Status Connection::Serve(bool* was_up) {
  Stream stream;
  MOTET_RETURN_IF_ERROR(Dial(stream));
  {
    std::lock_guard lock(mutex_);
    if (stopped_) return absl::OkStatus();
    stream_ = &stream;
    dirty_.clear();
    urgent_ = false;
    // Before hello is taken: a change that it misses is sent after it.
    connected_ = true;
  }
  stream.call = stream.stub->Subscribe(&stream.context);
  v1::NodeMessage first;
  *first.mutable_hello() = options_.hello();
  const bool up = stream.call->Write(first);
  std::thread writer;
  if (up) {
    writer = std::thread([&] { WriteUpdates(stream); });
    spdlog::info("{} connected to {}", options_.name, options_.address);
    const auto since = Clock::now();
    v1::CoordinatorMessage message;
    while (stream.call->Read(&message)) {
      *was_up = true;
      options_.on_message(message, PeerId(stream.context));
    }
    // One that is shut at once was refused: that calls for more backoff.
    *was_up |= Clock::now() - since > kSettled;
  }
  {
    std::lock_guard lock(mutex_);
    connected_ = false;
    stream_ = nullptr;
    changed_.notify_all();
  }
  if (writer.joinable()) writer.join();
  stream.context.TryCancel();
  const grpc::Status status = stream.call->Finish();
  return proto::FromGrpc(status,
                         absl::StrCat("coordinator ", options_.address));
}

void Connection::WriteUpdates(Stream& stream) {
  auto last = Clock::now() - Milliseconds(options_.update_every_ms);
  for (;;) {
    std::map<std::string, v1::JobUpdate> updates;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !connected_ || !dirty_.empty(); });
      if (!connected_) return;
      changed_.wait_until(lock,
                          last + Milliseconds(options_.update_every_ms),
                          [this] { return !connected_ || urgent_; });
      if (!connected_) return;
      urgent_ = false;
      updates.swap(dirty_);
    }
    for (auto& [id, update] : updates) {
      v1::NodeMessage message;
      *message.mutable_update() = std::move(update);
      // A failed write ends the stream; Read says so to Serve.
      if (!stream.call->Write(message)) return;
    }
    last = Clock::now();
  }
}

}  // namespace motet::node
