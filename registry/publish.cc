// SPDX-License-Identifier: Apache-2.0
#include "registry/publish.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/error.h"
#include "proto/signature.h"
#include "registry/fault.h"
#include "registry/record.h"

namespace motet::registry {
namespace {

using proto::Digest;
using proto::Error;
using proto::Hex;
using proto::Invalid;

}  // namespace

absl::Status CheckOwner(const std::string& federation,
                        const proto::SpiffeId& who, absl::string_view id) {
  MOTET_ASSIGN_OR_RETURN(const PackageId parsed, ParsePackageId(id));
  const bool own_federation = parsed.owner == federation;
  // The federation's own name belongs to the coordinator alone, even if an
  // administrator once approved a node of an owner with that name.
  if (who.federation == federation) {
    if (own_federation && who.role == "coordinator") return absl::OkStatus();
    if (!own_federation && who.role == "node" && who.owner == parsed.owner) {
      return absl::OkStatus();
    }
  }
  return Error(absl::StatusCode::kPermissionDenied,
               absl::StrCat("package ", id), who.ToString(),
               own_federation
                   ? absl::StrCat("the coordinator of ", federation)
                   : absl::StrCat("a node of the owner ", parsed.owner),
               "an owner publishes and revokes under its own name only");
}

absl::Status FileHasher::CloseFiles() {
  while (!done() && chunk_ == record_->files(file_).chunks_size()) {
    const v1::FileEntry& file = record_->files(file_);
    const Digest actual = stream_->Finish();
    if (actual != AsDigest(file.sha256())) {
      return Invalid(absl::StrCat("publish ", record_->id()),
                     absl::StrCat(file.path(), " with SHA-256 ", Hex(actual)),
                     absl::StrCat(Hex(file.sha256()), " as announced"),
                     "publish again from an undisturbed folder");
    }
    stream_.emplace();
    ++file_;
    chunk_ = 0;
  }
  return absl::OkStatus();
}

absl::Status FileHasher::Feed(const v1::ChunkRef& ref,
                              const std::string& bytes) {
  const v1::FileEntry& file = record_->files(file_);
  if (bytes.size() != ref.size_bytes()) {
    return Invalid(absl::StrCat("publish ", record_->id()),
                   absl::StrCat("chunk ", chunk_, " of ", file.path(), " with ",
                                bytes.size(), " bytes"),
                   absl::StrCat(ref.size_bytes(), " as announced"));
  }
  stream_->Update(bytes);
  if (file.path() == kSignatureFile) signature_ += bytes;
  ++chunk_;
  return CloseFiles();
}

absl::Status FileHasher::Advance(const std::map<Digest, bool>& have,
                                 const Chunk* arrived) {
  MOTET_RETURN_IF_ERROR(CloseFiles());
  while (!done()) {
    const v1::ChunkRef& ref = record_->files(file_).chunks(chunk_);
    const Digest wanted = AsDigest(ref.sha256());
    if (arrived != nullptr && arrived->sha256() == wanted) {
      MOTET_RETURN_IF_ERROR(Feed(ref, arrived->bytes()));
      continue;
    }
    const auto known = have.find(wanted);
    if (known == have.end() || !known->second) break;
    MOTET_ASSIGN_OR_RETURN(const std::string bytes,
                           store_->GetChunk(wanted, Visible::kAny));
    MOTET_RETURN_IF_ERROR(Feed(ref, bytes));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PublishSession>> PublishSession::Begin(
    const Context& context, const proto::SpiffeId& peer,
    v1::PackageRecord record) {
  MOTET_RETURN_IF_ERROR(CheckRecord(record));
  MOTET_RETURN_IF_ERROR(CheckOwner(context.federation, peer, record.id()));
  // Only what the publisher has to say; the rest is the registry's to set.
  record.DiscardUnknownFields();
  record.clear_published_at();
  record.clear_log_index();
  record.clear_revoked();
  record.clear_revoked_reason();
  record.clear_revoked_log_index();
  record.set_publisher(peer.ToString());
  auto session = std::unique_ptr<PublishSession>(
      new PublishSession(context, std::move(record)));

  const absl::StatusOr<v1::PackageRecord> known =
      context.store->Get(session->record_.id());
  if (known.ok()) {
    MOTET_RETURN_IF_ERROR(CommitAgain(*known, session->record_).status());
    session->already_published_ = true;
  } else if (!absl::IsNotFound(known.status())) {
    return known.status();
  }
  const std::vector<Digest> digests = DistinctChunks(session->record_);
  MOTET_ASSIGN_OR_RETURN(const std::vector<bool> have,
                         context.store->HasChunks(digests));
  for (size_t i = 0; i < digests.size(); ++i) {
    session->have_[digests[i]] = have[i];
  }
  return session;
}

absl::Status PublishSession::Add(std::string bytes) {
  MOTET_ASSIGN_OR_RETURN(const Chunk chunk, Chunk::Of(std::move(bytes)));
  const auto wanted = have_.find(chunk.sha256());
  if (wanted == have_.end()) {
    return Invalid(absl::StrCat("publish ", record_.id()),
                   absl::StrCat("a chunk of ", chunk.bytes().size(),
                                " bytes with SHA-256 ", Hex(chunk.sha256())),
                   "one that the record names",
                   "the bytes changed on the way or in the folder: publish "
                   "again");
  }
  MOTET_RETURN_IF_ERROR(context_.store->PutChunk(chunk));
  wanted->second = true;
  FaultPoint(kFaultAfterChunk);
  if (already_published_) return absl::OkStatus();
  return hasher_.Advance(have_, &chunk);
}

absl::Status PublishSession::CheckSignature() const {
  const std::string where = absl::StrCat("publish ", record_.id());
  MOTET_ASSIGN_OR_RETURN(
      const proto::SignatureInfo info,
      proto::VerifySignature(hasher_.signature(), context_.authority_pem));
  if (info.name != record_.id()) {
    return Invalid(
        where, absl::StrCat("a signature for \"", Printable(info.name), "\""),
        record_.id(), "sign the package under the id to publish");
  }
  std::map<std::string, Digest> announced;
  for (const v1::FileEntry& file : record_.files()) {
    if (file.path() == kSignatureFile) continue;
    announced[file.path()] = AsDigest(file.sha256());
  }
  std::map<std::string, Digest> signed_files;
  for (const proto::SignedFile& file : info.files) {
    signed_files[file.path] = file.sha256;
  }
  std::vector<std::string> differences;
  for (const auto& [path, sha256] : announced) {
    const auto found = signed_files.find(path);
    if (found == signed_files.end()) {
      differences.push_back(absl::StrCat(path, " unsigned"));
    } else if (found->second != sha256) {
      differences.push_back(absl::StrCat(path, " signed as ",
                                         Hex(found->second), " but sent as ",
                                         Hex(sha256)));
    }
  }
  for (const auto& [path, sha256] : signed_files) {
    if (announced.count(path) == 0) {
      differences.push_back(absl::StrCat(Printable(path), " signed, not sent"));
    }
  }
  if (!differences.empty()) {
    std::string list;
    for (const std::string& difference : differences) {
      absl::StrAppend(&list, list.empty() ? "" : ", ", difference);
    }
    return Invalid(where, list, "model.sig over exactly the package's files",
                   "sign the package again");
  }
  MOTET_ASSIGN_OR_RETURN(const proto::CertificateInfo signer,
                         proto::InspectCertificate(info.certificate_pem));
  return CheckOwner(context_.federation, signer.id, record_.id());
}

absl::StatusOr<v1::PublishReply> PublishSession::Finish(
    const std::string& time) {
  const auto missing = std::count_if(have_.begin(), have_.end(),
                                     [](const auto& h) { return !h.second; });
  if (missing > 0) {
    return Error(absl::StatusCode::kAborted,
                 absl::StrCat("publish ", record_.id()),
                 absl::StrCat("an end with ", missing, " chunks missing"),
                 "all of the record's chunks",
                 "publish again: only missing chunks are sent");
  }
  if (!already_published_) {
    MOTET_RETURN_IF_ERROR(hasher_.Advance(have_, nullptr));
    MOTET_RETURN_IF_ERROR(CheckSignature());
  }
  record_.set_published_at(time);
  FaultPoint(kFaultBeforeCommit);
  MOTET_ASSIGN_OR_RETURN(CommitResult result, context_.store->Commit(record_));
  FaultPoint(kFaultAfterCommit);
  v1::PublishReply reply;
  *reply.mutable_record() = WithoutChunks(result.record);
  reply.set_already_published(result.already_published);
  return reply;
}

}  // namespace motet::registry
