// SPDX-License-Identifier: Apache-2.0
// motet-node as a process: a line to the coordinator, a watch on the owner's
// folder, and one worker that runs approved jobs, one at a time, in order of
// arrival. Offers are checked and put to the policy here; nothing runs before
// consent.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/connection.h"
#include "node/job_store.h"
#include "node/runner.h"
#include "node/settings.h"
#include "proto/files.h"
#include "registry/client.h"

namespace motet::node {

struct DaemonOptions {
  Settings settings;
  int poll_ms = 200;              // of the jobs' folders
  int first_backoff_ms = 500;     // of dialling and of a job that waits
  int longest_backoff_ms = 30000;
  // Makes a registry client; by default one that dials settings.registry.
  std::function<absl::StatusOr<std::unique_ptr<registry::Client>>()> registry;
};

class Daemon {
 public:
  // Takes the folder's lock, checks certificate and key, reads the jobs.
  // Unavailable when another daemon has the folder.
  static absl::StatusOr<std::unique_ptr<Daemon>> Create(DaemonOptions options);
  ~Daemon();  // stops and waits

  // Starts the threads. Once.
  void Start();
  // Thread-safe; returns at once. Finishes the step under way.
  void Stop();
  // After Stop: waits until the threads have ended, or until nothing but
  // repeatable work is left. true: all ended; false: the process may end with
  // _Exit, everything durable is written.
  bool Wait();

  const Connection& connection() const { return *connection_; }
  JobStore& jobs() { return *jobs_; }

 private:
  Daemon(DaemonOptions options, proto::FileLock lock,
         std::unique_ptr<JobStore> jobs);
  void OnMessage(const v1::CoordinatorMessage& message,
                 const std::string& from);
  void OnOffer(const v1::TrainingPlan& plan, const std::string& from);
  void OnCancel(const std::string& id);
  v1::NodeHello Hello() const;
  void WatchFolder();
  void Work();
  // The oldest approved job; "" when none.
  std::string NextJob() const;

  const DaemonOptions options_;
  const proto::FileLock lock_;
  std::unique_ptr<JobStore> jobs_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<Connection> connection_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  int running_ = 0;  // threads
  std::thread dialler_, watcher_, worker_;
};

}  // namespace motet::node
