// SPDX-License-Identifier: Apache-2.0
// The node's one line to the coordinator: dialled out over mutual TLS, kept
// up with backoff. Updates enter and leave at most about twice a second a
// job; plans and cancellations come back. It decides nothing and stores
// nothing: what is to be said at every new connection comes from `hello`.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "proto/channel.h"
#include "training.grpc.pb.h"
#include "training.pb.h"

namespace motet::node {

struct ConnectionOptions {
  std::string address;           // host:port
  std::string name;              // "OWNER/NODE", for the log
  proto::TlsFiles tls;
  int first_backoff_ms = 500;
  int longest_backoff_ms = 30000;
  int connect_ms = 10000;        // one attempt
  int update_every_ms = 500;     // between two messages of mere progress
  std::function<v1::NodeHello()> hello;
  // from: the coordinator's authenticated SPIFFE id. Called on Run's thread.
  std::function<void(const v1::CoordinatorMessage&, const std::string& from)>
      on_message;
};

class Connection {
 public:
  explicit Connection(ConnectionOptions options);
  ~Connection();

  // Dials, listens, dials again, until Stop. Certificates are read anew at
  // every attempt, so that a renewed one counts.
  void Run();
  // Thread-safe; returns at once. Before a connection is there, updates are
  // dropped: hello tells the same.
  void Send(const v1::JobUpdate& update, bool urgent);
  void Stop();
  bool connected() const;
  // Why the last attempt or stream ended; "" before the first end.
  std::string last_error() const;

 private:
  struct Stream;
  // One connection's life. OK: it was up and ended.
  absl::Status Serve(bool* was_up);
  absl::Status Dial(Stream& stream);
  void WriteUpdates(Stream& stream);
  bool WaitMs(int ms);  // false when stopped

  const ConnectionOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  bool connected_ = false;
  bool urgent_ = false;
  std::string last_error_;
  Stream* stream_ = nullptr;                    // while one is up
  std::map<std::string, v1::JobUpdate> dirty_;  // latest of each job
};

}  // namespace motet::node
