// SPDX-License-Identifier: Apache-2.0
// A store in memory, for tests and for reading beside the RocksDB one: the
// same contract (registry/store.h) without the durability.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "registry/store.h"

namespace motet::registry {

class MemoryStore : public Store {
 public:
  absl::Status PutChunk(const Chunk& chunk) override;
  absl::StatusOr<std::vector<bool>> HasChunks(
      const std::vector<proto::Digest>& sha256) override;
  absl::StatusOr<std::string> GetChunk(const proto::Digest& sha256,
                                       Visible which) override;
  absl::StatusOr<CommitResult> Commit(const v1::PackageRecord& record) override;
  absl::StatusOr<v1::PackageRecord> Get(const std::string& id) override;
  absl::StatusOr<v1::PackageRecord> GetByManifest(
      const proto::Digest& manifest_sha256) override;
  absl::StatusOr<RecordPage> List(const std::string& prefix,
                                  const std::string& after, int limit) override;
  absl::StatusOr<v1::LogEntry> Revoke(const std::string& id,
                                      const std::string& reason,
                                      const std::string& actor,
                                      const std::string& time) override;
  absl::StatusOr<uint64_t> LogSize() override;
  absl::StatusOr<std::vector<v1::LogEntry>> LogEntries(uint64_t from,
                                                       int limit) override;
  absl::StatusOr<int64_t> Collect(absl::Time older_than) override;

 private:
  struct Stored {
    std::string bytes;
    bool published = false;
    absl::Time touched;
  };
  std::mutex mutex_;  // guards all below
  std::map<proto::Digest, Stored> chunks_;
  std::map<std::string, v1::PackageRecord> records_;
  std::map<proto::Digest, std::string> id_by_manifest_;
  std::vector<v1::LogEntry> log_;
};

}  // namespace motet::registry
