// SPDX-License-Identifier: Apache-2.0
// Brings one approved job to its end: base, training, package, publish. What
// it needs of the world comes by RunnerContext; what it does is told to the
// JobStore. Everything it leaves on disk is whole, so that it can be killed
// at any point and called again.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/base_store.h"
#include "node/corpus_store.h"
#include "node/job_store.h"
#include "node/policy.h"
#include "node/progress.h"
#include "node/retrieval_jobs.h"
#include "node/row_start.h"
#include "node/settings.h"
#include "registry/client.h"

namespace motet::node {

struct RunnerContext {
  Settings settings;
  JobStore* jobs = nullptr;
  std::function<absl::StatusOr<std::unique_ptr<registry::Client>>()> registry;
  int first_backoff_ms = 1000;
  int longest_backoff_ms = 30000;
};

class Runner {
 public:
  explicit Runner(RunnerContext context);

  // Returns when the job is finished (published, failed, cancelled, refused:
  // the store says which) or when Stop was called.
  void Run(const std::string& id);
  // Thread-safe. The step under way is finished and a checkpoint written.
  void Stop();
  // Thread-safe: wakes a wait, so that a cancellation is seen at once.
  void Wake();
  // True while nothing would be lost or waited for if the process ended now:
  // everything but steps of training.
  bool abandonable() const { return abandonable_; }

 private:
  enum class Stage { kBase, kCorpus, kRows, kTraining, kPackage, kPublish };

  absl::Status Advance(const std::string& id);
  absl::Status Train(const JobRecord& job);
  // Kinds "embedding_adapter" and "pilots" (runner_retrieval.cc).
  absl::Status TrainRetrieval(const JobRecord& job);
  absl::Status RunAdapter(const JobRecord& job, const Policy& policy,
                          const EncoderBase& base,
                          const RetrievalCorpus& corpus);
  absl::Status RunPilots(const JobRecord& job, const Policy& policy,
                         const EncoderBase& base, const RetrievalCorpus& corpus,
                         registry::Client& client);
  absl::Status Publish(const JobRecord& job);
  // path: of the text whose digest this is.
  absl::Status CheckCorpus(const JobRecord& job, const std::string& path,
                           const std::string& sha256);
  absl::StatusOr<RowStart> StartRows(const JobRecord& job, const Base& base,
                                     const std::vector<std::string>& own);
  bool Interrupted(const std::string& id) const;
  bool WaitMs(const std::string& id, int ms);  // false when interrupted
  // A step of a training, to the owner's line and the store; false: stop.
  bool Report(const std::string& id, const learn::TrainProgress& p,
              double seconds_before, ProgressLine& line);
  void Tell(const std::string& id, const std::string& detail,
            const std::string& public_detail);
  void Conclude(const std::string& id, const absl::Status& status);
  // What the coordinator may read of an error.
  std::string PublicReason(const absl::Status& status) const;

  const RunnerContext context_;
  Stage stage_ = Stage::kBase;
  std::atomic<bool> stopped_{false};
  std::atomic<bool> abandonable_{true};
  mutable std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace motet::node
