// SPDX-License-Identifier: Apache-2.0
#include "registry/store.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/limits.h"
#include "registry/record.h"

namespace motet::registry {

using proto::Error;
using proto::Hex;

absl::StatusOr<Chunk> Chunk::Of(std::string bytes) {
  if (bytes.empty() ||
      bytes.size() > static_cast<size_t>(proto::kMaxChunkBytes)) {
    return proto::Invalid(
        "chunk", absl::StrCat(bytes.size(), " bytes"),
        absl::StrCat("1 to ", proto::kMaxChunkBytes, " bytes"));
  }
  const proto::Digest sha256 = proto::Sha256(bytes);
  return Chunk(sha256, std::move(bytes));
}

absl::Status ChunkNotFound(const proto::Digest& sha256) {
  return Error(absl::StatusCode::kNotFound, "chunk",
               absl::StrCat(Hex(sha256), ", which is not stored"),
               "the digest of a published chunk");
}

absl::Status ChunkDamaged(const proto::Digest& sha256) {
  return Error(absl::StatusCode::kDataLoss, "chunk",
               absl::StrCat("other bytes from the disk for ", Hex(sha256)),
               "the bytes that were stored",
               "check the registry's disk; publishing the same package again "
               "repairs the chunk");
}

absl::Status ChunkMissingAtCommit(const std::string& id,
                                  const proto::Digest& sha256) {
  return Error(absl::StatusCode::kAborted, absl::StrCat("publish ", id),
               absl::StrCat("no chunk ", Hex(sha256)),
               "every chunk of the record in the store",
               "publish again: only missing chunks are sent");
}

absl::Status PackageNotFound(absl::string_view what) {
  return Error(absl::StatusCode::kNotFound, "registry",
               absl::StrCat("a request for ", what), "a published package",
               "list the packages to see which there are");
}

absl::Status ManifestTaken(const v1::PackageRecord& record,
                           const std::string& other_id) {
  return Error(
      absl::StatusCode::kAlreadyExists, absl::StrCat("publish ", record.id()),
      absl::StrCat("the manifest of ", other_id), "a manifest of its own",
      "write the package's own id into manifest.json");
}

absl::StatusOr<CommitResult> CommitAgain(const v1::PackageRecord& stored,
                                         const v1::PackageRecord& offered) {
  const std::string where = absl::StrCat("publish ", stored.id());
  if (stored.revoked()) {
    return Error(absl::StatusCode::kFailedPrecondition, where,
                 absl::StrCat("an id that was revoked (",
                              Printable(stored.revoked_reason()), ")"),
                 "an id never used before", "publish under a new version");
  }
  if (!SameContent(stored, offered)) {
    return Error(
        absl::StatusCode::kAlreadyExists, where,
        absl::StrCat("other content (manifest ", Hex(offered.manifest_sha256()),
                     ")"),
        absl::StrCat("the bytes published on ", stored.published_at(),
                     " (manifest ", Hex(stored.manifest_sha256()), ")"),
        "a published id never changes: publish under a new version");
  }
  return CommitResult{stored, true};
}

v1::LogEntry PublishEntry(const v1::PackageRecord& record) {
  v1::LogEntry entry;
  entry.set_index(record.log_index());
  entry.set_action(v1::LOG_PUBLISH);
  entry.set_package_id(record.id());
  entry.set_manifest_sha256(record.manifest_sha256());
  entry.set_actor(record.publisher());
  entry.set_time(record.published_at());
  return entry;
}

v1::LogEntry RevokeEntry(const v1::PackageRecord& record,
                         const std::string& actor, const std::string& time) {
  v1::LogEntry entry;
  entry.set_index(record.revoked_log_index());
  entry.set_action(v1::LOG_REVOKE);
  entry.set_package_id(record.id());
  entry.set_manifest_sha256(record.manifest_sha256());
  entry.set_actor(actor);
  entry.set_time(time);
  entry.set_reason(record.revoked_reason());
  return entry;
}

std::vector<proto::Digest> DistinctChunks(const v1::PackageRecord& record) {
  std::vector<proto::Digest> digests;
  for (const v1::FileEntry& file : record.files()) {
    for (const v1::ChunkRef& chunk : file.chunks()) {
      digests.push_back(AsDigest(chunk.sha256()));
    }
  }
  std::sort(digests.begin(), digests.end());
  digests.erase(std::unique(digests.begin(), digests.end()), digests.end());
  return digests;
}

v1::PackageRecord WithoutChunks(const v1::PackageRecord& record) {
  v1::PackageRecord summary = record;
  for (v1::FileEntry& file : *summary.mutable_files()) file.clear_chunks();
  return summary;
}

}  // namespace motet::registry
