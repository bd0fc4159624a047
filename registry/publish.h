// SPDX-License-Identifier: Apache-2.0
// One publish, from the announced record over its chunks to the commit. What
// enters is a stranger's; what leaves is a package whose every byte has the
// announced digest and whose signature is by the owner that its id names.
// Nothing is visible before Finish returns OK.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/digest.h"
#include "proto/identity.h"
#include "registry.pb.h"
#include "registry/store.h"

namespace motet::registry {

// PermissionDenied unless `who` may act under the id's owner: a node of that
// owner, or the coordinator under the federation's own name (the base).
absl::Status CheckOwner(const std::string& federation,
                        const proto::SpiffeId& who, absl::string_view id);

// Sees the chunks of a package in any order and computes the digest of every
// file: from memory where a chunk arrives in its place, else from the store.
class FileHasher {
 public:
  FileHasher(const v1::PackageRecord* record, Store* store)
      : record_(record), store_(store) {}
  // `have`: which chunks can be read from the store. `arrived` may be null.
  absl::Status Advance(const std::map<proto::Digest, bool>& have,
                       const Chunk* arrived);
  bool done() const { return file_ == record_->files_size(); }
  const std::string& signature() const { return signature_; }

 private:
  absl::Status Feed(const v1::ChunkRef& ref, const std::string& bytes);
  absl::Status CloseFiles();

  const v1::PackageRecord* record_;
  Store* store_;
  int file_ = 0;  // cursor: the next chunk that a digest needs
  int chunk_ = 0;
  std::optional<proto::Sha256Stream> stream_{std::in_place};
  std::string signature_;  // the bytes of model.sig
};

class PublishSession {
 public:
  struct Context {
    Store* store = nullptr;
    std::string federation;
    std::string authority_pem;
  };
  // Refuses at once what is known to fail: a bad record, an id of another
  // owner, a revoked id, other content under a published id.
  static absl::StatusOr<std::unique_ptr<PublishSession>> Begin(
      const Context& context, const proto::SpiffeId& peer,
      v1::PackageRecord record);

  // One chunk, in any order; one that is there already is no error.
  absl::Status Add(std::string bytes);

  // `time`: RFC 3339, becomes published_at. Aborted when chunks are missing.
  absl::StatusOr<v1::PublishReply> Finish(const std::string& time);

  const v1::PackageRecord& record() const { return record_; }

 private:
  PublishSession(const Context& context, v1::PackageRecord record)
      : context_(context),
        record_(std::move(record)),
        hasher_(&record_, context.store) {}
  absl::Status CheckSignature() const;

  const Context context_;
  v1::PackageRecord record_;
  FileHasher hasher_;
  std::map<proto::Digest, bool> have_;  // every chunk of the record
  bool already_published_ = false;
};

}  // namespace motet::registry
