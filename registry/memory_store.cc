// SPDX-License-Identifier: Apache-2.0
#include "registry/memory_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "registry/record.h"

namespace motet::registry {

using Lock = std::lock_guard<std::mutex>;

absl::Status MemoryStore::PutChunk(const Chunk& chunk) {
  Lock lock(mutex_);
  Stored& stored = chunks_[chunk.sha256()];
  stored.bytes = chunk.bytes();
  stored.touched = absl::Now();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<bool>> MemoryStore::HasChunks(
    const std::vector<proto::Digest>& sha256) {
  Lock lock(mutex_);
  std::vector<bool> has;
  for (const proto::Digest& digest : sha256) {
    const auto found = chunks_.find(digest);
    has.push_back(found != chunks_.end());
    if (has.back()) found->second.touched = absl::Now();
  }
  return has;
}

absl::StatusOr<std::string> MemoryStore::GetChunk(const proto::Digest& sha256,
                                                  Visible which) {
  Lock lock(mutex_);
  const auto found = chunks_.find(sha256);
  if (found == chunks_.end() ||
      (which == Visible::kPublished && !found->second.published)) {
    return ChunkNotFound(sha256);
  }
  return found->second.bytes;
}

absl::StatusOr<CommitResult> MemoryStore::Commit(
    const v1::PackageRecord& record) {
  Lock lock(mutex_);
  const auto known = records_.find(record.id());
  if (known != records_.end()) return CommitAgain(known->second, record);
  const proto::Digest manifest = AsDigest(record.manifest_sha256());
  const auto taken = id_by_manifest_.find(manifest);
  if (taken != id_by_manifest_.end()) {
    return ManifestTaken(record, taken->second);
  }
  const std::vector<proto::Digest> digests = DistinctChunks(record);
  for (const proto::Digest& digest : digests) {
    if (chunks_.count(digest) == 0) {
      return ChunkMissingAtCommit(record.id(), digest);
    }
  }
  for (const proto::Digest& digest : digests) chunks_[digest].published = true;
  v1::PackageRecord stored = record;
  stored.set_log_index(log_.size());
  log_.push_back(PublishEntry(stored));
  id_by_manifest_[manifest] = stored.id();
  records_[stored.id()] = stored;
  return CommitResult{std::move(stored), false};
}

absl::StatusOr<v1::PackageRecord> MemoryStore::Get(const std::string& id) {
  Lock lock(mutex_);
  const auto found = records_.find(id);
  if (found == records_.end()) return PackageNotFound(Printable(id));
  return found->second;
}

absl::StatusOr<v1::PackageRecord> MemoryStore::GetByManifest(
    const proto::Digest& manifest_sha256) {
  Lock lock(mutex_);
  const auto found = id_by_manifest_.find(manifest_sha256);
  if (found == id_by_manifest_.end()) {
    return PackageNotFound(
        absl::StrCat("manifest ", proto::Hex(manifest_sha256)));
  }
  return records_[found->second];
}

absl::StatusOr<RecordPage> MemoryStore::List(const std::string& prefix,
                                             const std::string& after,
                                             int limit) {
  Lock lock(mutex_);
  RecordPage page;
  size_t bytes = 0;
  auto it = after < prefix ? records_.lower_bound(prefix)
                           : records_.upper_bound(after);
  for (; it != records_.end() && absl::StartsWith(it->first, prefix); ++it) {
    if (static_cast<int>(page.records.size()) == limit ||
        bytes >= kListPageBytes) {
      if (!page.records.empty()) page.next = page.records.back().id();
      break;
    }
    page.records.push_back(WithoutChunks(it->second));
    bytes += page.records.back().ByteSizeLong();
  }
  return page;
}

absl::StatusOr<v1::LogEntry> MemoryStore::Revoke(const std::string& id,
                                                 const std::string& reason,
                                                 const std::string& actor,
                                                 const std::string& time) {
  Lock lock(mutex_);
  const auto found = records_.find(id);
  if (found == records_.end()) return PackageNotFound(Printable(id));
  v1::PackageRecord& record = found->second;
  if (record.revoked()) return log_[record.revoked_log_index()];
  record.set_revoked(true);
  record.set_revoked_reason(reason);
  record.set_revoked_log_index(log_.size());
  log_.push_back(RevokeEntry(record, actor, time));
  return log_.back();
}

absl::StatusOr<uint64_t> MemoryStore::LogSize() {
  Lock lock(mutex_);
  return log_.size();
}

absl::StatusOr<std::vector<v1::LogEntry>> MemoryStore::LogEntries(uint64_t from,
                                                                  int limit) {
  Lock lock(mutex_);
  std::vector<v1::LogEntry> entries;
  for (uint64_t i = from;
       i < log_.size() && static_cast<int>(entries.size()) < limit; ++i) {
    entries.push_back(log_[i]);
  }
  return entries;
}

absl::StatusOr<int64_t> MemoryStore::Collect(absl::Time older_than) {
  Lock lock(mutex_);
  int64_t collected = 0;
  for (auto it = chunks_.begin(); it != chunks_.end();) {
    if (!it->second.published && it->second.touched < older_than) {
      it = chunks_.erase(it);
      ++collected;
    } else {
      ++it;
    }
  }
  return collected;
}

}  // namespace motet::registry
