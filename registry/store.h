// SPDX-License-Identifier: Apache-2.0
// Where the registry keeps what it was given: content-addressed chunks,
// package records and the append-only log. A store knows nothing of owners,
// signatures or networks; registry/core.h asks those questions before it
// calls here.
//
// Rules for every implementation (tests/contract runs one suite over all):
//   * All calls may come from many threads at once and block.
//   * A call that returns an error has changed nothing that a later call can
//     see, with one exception: Commit or Revoke that fail with
//     ResourceExhausted, DataLoss or Internal after the bytes had reached the
//     disk may turn out to be there after the next open, whole. Asking again
//     is always safe.
//   * Errors, beyond those named below: ResourceExhausted when space is
//     short, DataLoss when stored bytes are damaged, Internal otherwise.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/digest.h"
#include "registry.pb.h"

namespace motet::registry {

struct CommitResult {
  v1::PackageRecord record;        // as stored, with log_index
  bool already_published = false;  // the same content was there before
};

struct RecordPage {
  std::vector<v1::PackageRecord> records;  // ascending by id, no chunk lists
  std::string next;  // pass as `after` to go on; empty: that was all
};

enum class Visible {
  kPublished,  // only chunks that a committed record names
  kAny,        // also those of a publish under way
};

// Bytes with their digest. There is no way to make one with a wrong digest,
// so that a store need not compute it again.
class Chunk {
 public:
  // InvalidArgument unless 1 to 1 MiB (limits.h) long.
  static absl::StatusOr<Chunk> Of(std::string bytes);
  const proto::Digest& sha256() const { return sha256_; }
  const std::string& bytes() const { return bytes_; }

 private:
  Chunk(const proto::Digest& sha256, std::string bytes)
      : sha256_(sha256), bytes_(std::move(bytes)) {}
  proto::Digest sha256_;
  std::string bytes_;
};

class Store {
 public:
  virtual ~Store() = default;

  // Keeps the chunk. Idempotent. Survives the death of the process; it is
  // durable against loss of power once a Commit that names it has returned.
  // A chunk that no Commit ever names stays until Collect.
  virtual absl::Status PutChunk(const Chunk& chunk) = 0;

  // For each digest, whether its chunk is here and, as far as known,
  // undamaged. Those found are safe from Collect as if put just now.
  virtual absl::StatusOr<std::vector<bool>> HasChunks(
      const std::vector<proto::Digest>& sha256) = 0;

  // The chunk's bytes, their digest verified at this very read. NotFound:
  // not here, or not visible. DataLoss: damaged; from then on HasChunks
  // denies it, so that the next publish of the same bytes repairs it.
  virtual absl::StatusOr<std::string> GetChunk(const proto::Digest& sha256,
                                               Visible which) = 0;

  // Publishes: record, indexes and log entry appear together or not at all.
  // OK means durable against loss of power, chunks included. The caller has
  // run CheckRecord; publisher and published_at are the caller's, log_index
  // is set here. Idempotent: the same content under the same id is OK with
  // already_published, and adds nothing to the log.
  //   AlreadyExists: the id has other content, or the manifest's digest is
  //     another package's.
  //   FailedPrecondition: the id is revoked.
  //   Aborted: a chunk that the record names is not here (any more).
  virtual absl::StatusOr<CommitResult> Commit(
      const v1::PackageRecord& record) = 0;

  // The whole record, revoked or not. NotFound names what was asked.
  virtual absl::StatusOr<v1::PackageRecord> Get(const std::string& id) = 0;
  virtual absl::StatusOr<v1::PackageRecord> GetByManifest(
      const proto::Digest& manifest_sha256) = 0;

  // Records whose id starts with `prefix` and is greater than `after`, at
  // most `limit` and at most about 4 MiB.
  virtual absl::StatusOr<RecordPage> List(const std::string& prefix,
                                          const std::string& after,
                                          int limit) = 0;

  // Marks the record and appends to the log, together, durably. The package
  // stays readable. Idempotent: revoking again returns the first entry.
  // NotFound: no such package.
  virtual absl::StatusOr<v1::LogEntry> Revoke(const std::string& id,
                                              const std::string& reason,
                                              const std::string& actor,
                                              const std::string& time) = 0;

  // Entries are numbered from 0 without holes and never change.
  virtual absl::StatusOr<uint64_t> LogSize() = 0;
  // At most `limit` entries from number `from` on; none past the end.
  virtual absl::StatusOr<std::vector<v1::LogEntry>> LogEntries(uint64_t from,
                                                               int limit) = 0;

  // Deletes chunks that no committed record names and that were put (or last
  // asked for by HasChunks) before `older_than`; returns how many. Safe
  // beside publishes: one that loses a chunk so gets Aborted and sends it
  // again.
  virtual absl::StatusOr<int64_t> Collect(absl::Time older_than) = 0;
};

// What the implementations share, so that they cannot differ.
absl::Status ChunkNotFound(const proto::Digest& sha256);
absl::Status ChunkDamaged(const proto::Digest& sha256);
absl::Status ChunkMissingAtCommit(const std::string& id,
                                  const proto::Digest& sha256);
absl::Status PackageNotFound(absl::string_view what);
absl::Status ManifestTaken(const v1::PackageRecord& record,
                           const std::string& other_id);
// What Commit answers when the id is known: `stored` again, or the error.
absl::StatusOr<CommitResult> CommitAgain(const v1::PackageRecord& stored,
                                         const v1::PackageRecord& offered);
v1::LogEntry PublishEntry(const v1::PackageRecord& record);
v1::LogEntry RevokeEntry(const v1::PackageRecord& record,
                         const std::string& actor, const std::string& time);
// A page of a list ends after about this many bytes, so that it always fits
// into one message.
inline constexpr size_t kListPageBytes = size_t{4} << 20;
// Distinct chunk digests of a record, sorted.
std::vector<proto::Digest> DistinctChunks(const v1::PackageRecord& record);
// The record without its chunk lists.
v1::PackageRecord WithoutChunks(const v1::PackageRecord& record);

}  // namespace motet::registry
