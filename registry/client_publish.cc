// SPDX-License-Identifier: Apache-2.0
// A publish from the client's side: describe the folder, ask what is missing,
// stream the record and those chunks.
#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/status.h"
#include "registry/client_files.h"
#include "registry/client_impl.h"
#include "registry/record.h"

namespace motet::registry {
namespace {

// Asking for a terabyte's chunks is one look-up each: minutes at worst.
constexpr std::chrono::minutes kMissingDeadline(5);

using Writer = grpc::ClientWriterInterface<v1::PublishRequest>;

// Sends each missing chunk once, in the record's order. OK as well when the
// registry stopped listening: then its answer says why.
absl::Status SendChunks(const std::string& folder,
                        const v1::PackageRecord& record,
                        std::set<std::string> missing, const Progress& progress,
                        Writer* writer) {
  const uint64_t total = TotalBytes(record);
  uint64_t done = total;
  std::set<std::string> counted = missing;
  for (const v1::FileEntry& file : record.files()) {
    for (const v1::ChunkRef& chunk : file.chunks()) {
      if (counted.erase(chunk.sha256()) > 0) done -= chunk.size_bytes();
    }
  }
  v1::PublishRequest request;
  for (const v1::FileEntry& file : record.files()) {
    MOTET_ASSIGN_OR_RETURN(const FileAt source, FileAt::OpenToRead(absl::StrCat(
                                                    folder, "/", file.path())));
    uint64_t offset = 0;
    for (const v1::ChunkRef& chunk : file.chunks()) {
      if (missing.erase(chunk.sha256()) > 0) {
        MOTET_ASSIGN_OR_RETURN(*request.mutable_chunk(),
                               source.Read(offset, chunk.size_bytes()));
        if (!writer->Write(request)) return absl::OkStatus();
        done += chunk.size_bytes();
        if (progress && !progress(done, total)) {
          return proto::Error(absl::StatusCode::kCancelled,
                              absl::StrCat("publish ", record.id()),
                              "a wish to stop", "to go on",
                              "publish again: only missing chunks are sent");
        }
      }
      offset += chunk.size_bytes();
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::PublishReply> GrpcClient::Publish(
    const std::string& folder, const std::string& id,
    const PublishOptions& options) {
  MOTET_ASSIGN_OR_RETURN(const v1::PackageRecord record,
                         DescribeFolder(folder, id, options.cuts));
  v1::MissingReply missing;
  {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kMissingDeadline);
    v1::MissingRequest request;
    *request.mutable_record() = record;
    MOTET_RETURN_IF_ERROR(
        proto::FromGrpc(stub_->Missing(&context, request, &missing), peer_));
  }
  grpc::ClientContext context;
  v1::PublishReply reply;
  const std::unique_ptr<Writer> writer(stub_->Publish(&context, &reply));
  v1::PublishRequest first;
  *first.mutable_record() = record;
  absl::Status sent;
  if (writer->Write(first)) {
    sent = SendChunks(folder, record,
                      {missing.sha256().begin(), missing.sha256().end()},
                      options.progress, writer.get());
  }
  if (!sent.ok()) context.TryCancel();
  writer->WritesDone();
  const absl::Status answer = proto::FromGrpc(writer->Finish(), peer_);
  MOTET_RETURN_IF_ERROR(sent);
  MOTET_RETURN_IF_ERROR(answer);
  return reply;
}

}  // namespace motet::registry
