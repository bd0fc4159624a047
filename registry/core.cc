// SPDX-License-Identifier: Apache-2.0
#include "registry/core.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/limits.h"
#include "registry/record.h"

namespace motet::registry {
namespace {

using proto::Digest;
using proto::Invalid;

constexpr size_t kMaxReasonBytes = 1000;

// 0 stands for "as many as allowed".
int PageSize(uint32_t asked) {
  if (asked == 0 || asked > proto::kMaxListPage) return proto::kMaxListPage;
  return static_cast<int>(asked);
}

}  // namespace

std::string Core::Now() const {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", clock_(), absl::UTCTimeZone());
}

absl::StatusOr<v1::MissingReply> Core::Missing(
    const proto::SpiffeId& peer, const v1::PackageRecord& record) {
  MOTET_RETURN_IF_ERROR(CheckRecord(record));
  MOTET_RETURN_IF_ERROR(CheckOwner(federation(), peer, record.id()));
  const std::vector<Digest> digests = DistinctChunks(record);
  MOTET_ASSIGN_OR_RETURN(const std::vector<bool> have,
                         context_.store->HasChunks(digests));
  std::set<Digest> missing;
  for (size_t i = 0; i < digests.size(); ++i) {
    if (!have[i]) missing.insert(digests[i]);
  }
  v1::MissingReply reply;
  for (const v1::FileEntry& file : record.files()) {
    for (const v1::ChunkRef& chunk : file.chunks()) {
      if (missing.erase(AsDigest(chunk.sha256())) > 0) {
        reply.add_sha256(chunk.sha256());
      }
    }
  }
  return reply;
}

absl::StatusOr<std::unique_ptr<PublishSession>> Core::BeginPublish(
    const proto::SpiffeId& peer, v1::PackageRecord record) {
  return PublishSession::Begin(context_, peer, std::move(record));
}

absl::StatusOr<v1::PublishReply> Core::FinishPublish(PublishSession& session) {
  return session.Finish(Now());
}

absl::StatusOr<v1::FetchReply> Core::Fetch(const v1::FetchRequest& request) {
  v1::FetchReply reply;
  if (request.id().empty() == request.manifest_sha256().empty()) {
    return Invalid("fetch", "an id and a digest, or neither", "one of the two");
  }
  if (!request.id().empty()) {
    MOTET_RETURN_IF_ERROR(ParsePackageId(request.id()).status());
    MOTET_ASSIGN_OR_RETURN(*reply.mutable_record(),
                           context_.store->Get(request.id()));
    return reply;
  }
  MOTET_ASSIGN_OR_RETURN(const Digest sha256,
                         proto::DigestFromBytes(request.manifest_sha256()));
  MOTET_ASSIGN_OR_RETURN(*reply.mutable_record(),
                         context_.store->GetByManifest(sha256));
  return reply;
}

absl::Status Core::CheckChunks(const v1::ChunksRequest& request) {
  if (request.sha256_size() <= proto::kMaxListPage) return absl::OkStatus();
  return Invalid("chunks", absl::StrCat(request.sha256_size(), " digests"),
                 absl::StrCat("at most ", proto::kMaxListPage, " a call"));
}

v1::ChunkReply Core::ReadChunk(const std::string& sha256) {
  v1::ChunkReply reply;
  reply.set_sha256(sha256);
  const absl::StatusOr<Digest> digest = proto::DigestFromBytes(sha256);
  absl::StatusOr<std::string> bytes =
      digest.ok() ? context_.store->GetChunk(*digest, Visible::kPublished)
                  : digest.status();
  if (bytes.ok()) {
    reply.set_data(*std::move(bytes));
  } else {
    reply.set_error(std::string(bytes.status().message()));
  }
  return reply;
}

absl::StatusOr<v1::ListReply> Core::List(const v1::ListRequest& request) {
  MOTET_ASSIGN_OR_RETURN(RecordPage page,
                         context_.store->List(request.prefix(), request.after(),
                                              PageSize(request.limit())));
  v1::ListReply reply;
  for (v1::PackageRecord& record : page.records) {
    *reply.add_packages() = std::move(record);
  }
  reply.set_next(page.next);
  return reply;
}

absl::StatusOr<v1::RevokeReply> Core::Revoke(const proto::SpiffeId& peer,
                                             const v1::RevokeRequest& request) {
  MOTET_RETURN_IF_ERROR(ParsePackageId(request.id()).status());
  const bool administrator =
      peer.role == "coordinator" && peer.federation == federation();
  if (!administrator) {
    MOTET_RETURN_IF_ERROR(CheckOwner(federation(), peer, request.id()));
  }
  if (request.reason().empty() || request.reason().size() > kMaxReasonBytes) {
    return Invalid(
        absl::StrCat("revoke ", request.id()),
        absl::StrCat("a reason of ", request.reason().size(), " bytes"),
        absl::StrCat("1 to ", kMaxReasonBytes, " bytes"),
        "say why in a sentence: members will read it");
  }
  v1::RevokeReply reply;
  MOTET_ASSIGN_OR_RETURN(*reply.mutable_entry(),
                         context_.store->Revoke(request.id(), request.reason(),
                                                peer.ToString(), Now()));
  return reply;
}

absl::StatusOr<v1::LogReply> Core::Log(const v1::LogRequest& request) {
  v1::LogReply reply;
  // The size first: entries only ever grow, so they cannot fall short of it.
  MOTET_ASSIGN_OR_RETURN(const uint64_t size, context_.store->LogSize());
  reply.set_size(size);
  MOTET_ASSIGN_OR_RETURN(
      std::vector<v1::LogEntry> entries,
      context_.store->LogEntries(request.from(), PageSize(request.limit())));
  for (v1::LogEntry& entry : entries) {
    if (entry.index() < size) *reply.add_entries() = std::move(entry);
  }
  return reply;
}

}  // namespace motet::registry
