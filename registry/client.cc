// SPDX-License-Identifier: Apache-2.0
#include "registry/client.h"

#include <unistd.h>

#include <chrono>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/status.h"
#include "registry/client_impl.h"
#include "registry/record.h"

namespace motet::registry {
namespace {

// For calls that answer at once. Streams have none: keep-alive finds a dead
// peer, and a slow one is no error.
constexpr std::chrono::seconds kCallDeadline(30);

void SetDeadline(grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + kCallDeadline);
}

absl::StatusOr<v1::FetchRequest> RequestFor(const std::string& id_or_sha256) {
  v1::FetchRequest request;
  if (absl::StrContains(id_or_sha256, '/')) {
    MOTET_RETURN_IF_ERROR(ParsePackageId(id_or_sha256).status());
    request.set_id(id_or_sha256);
    return request;
  }
  const absl::StatusOr<proto::Digest> digest =
      proto::DigestFromHex(id_or_sha256);
  if (!digest.ok()) {
    return proto::Invalid("package",
                          absl::StrCat("\"", Printable(id_or_sha256), "\""),
                          "owner/name@version, or the manifest's SHA-256 as 64 "
                          "hexadecimal digits");
  }
  request.set_manifest_sha256(proto::ToBytes(*digest));
  return request;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Make(
    const std::string& address, const proto::TlsFiles& tls) {
  MOTET_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                         proto::ClientChannel(address, tls, "registry"));
  return std::make_unique<GrpcClient>(address, std::move(channel));
}

GrpcClient::GrpcClient(const std::string& address,
                       std::shared_ptr<grpc::Channel> channel)
    : peer_(absl::StrCat("registry ", address)),
      stub_(v1::Registry::NewStub(std::move(channel))) {}

absl::StatusOr<v1::PackageRecord> GrpcClient::Inspect(
    const std::string& id_or_sha256) {
  MOTET_ASSIGN_OR_RETURN(const v1::FetchRequest request,
                         RequestFor(id_or_sha256));
  grpc::ClientContext context;
  SetDeadline(&context);
  v1::FetchReply reply;
  MOTET_RETURN_IF_ERROR(
      proto::FromGrpc(stub_->Fetch(&context, request, &reply), peer_));
  // The registry is not trusted with what it names: paths become files here.
  MOTET_RETURN_IF_ERROR(CheckRecord(reply.record()));
  const bool asked = request.id().empty() ? reply.record().manifest_sha256() ==
                                                request.manifest_sha256()
                                          : reply.record().id() == request.id();
  if (!asked) {
    return proto::Error(absl::StatusCode::kDataLoss, peer_,
                        absl::StrCat("a record of ", reply.record().id()),
                        id_or_sha256, "report it to the administrators");
  }
  return std::move(*reply.mutable_record());
}

absl::StatusOr<v1::PackageRecord> GrpcClient::Fetch(
    const std::string& id_or_sha256, const std::string& folder_given,
    const Progress& progress) {
  const std::string folder(absl::StripSuffix(folder_given, "/"));
  const auto exists = [&] {
    return proto::Error(absl::StatusCode::kAlreadyExists, "fetch",
                        absl::StrCat(folder, ", which is there already"),
                        "a folder to be made", "choose another");
  };
  if (proto::Exists(folder)) return exists();
  MOTET_ASSIGN_OR_RETURN(v1::PackageRecord record, Inspect(id_or_sha256));
  if (record.revoked()) {
    return proto::Error(absl::StatusCode::kFailedPrecondition,
                        absl::StrCat("fetch ", record.id()),
                        absl::StrCat("a package that was revoked (",
                                     Printable(record.revoked_reason()), ")"),
                        "one in good standing", "use another version");
  }
  const std::string partial = folder + ".partial";
  const std::string lock_path = partial + ".lock";
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(partial));
  MOTET_ASSIGN_OR_RETURN(
      const proto::FileLock lock,
      proto::FileLock::Take(lock_path, absl::StrCat("fetching ", folder)));
  if (proto::Exists(folder)) return exists();
  MOTET_RETURN_IF_ERROR(
      FetchFiles(stub_.get(), peer_, record, partial, progress));
  MOTET_RETURN_IF_ERROR(proto::RenameDurably(partial, folder));
  // Whoever waits for this lock finds the folder in place.
  unlink(lock_path.c_str());
  return record;
}

absl::StatusOr<std::vector<v1::PackageRecord>> GrpcClient::List(
    const std::string& prefix) {
  std::vector<v1::PackageRecord> packages;
  v1::ListRequest request;
  request.set_prefix(prefix);
  do {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::ListReply reply;
    MOTET_RETURN_IF_ERROR(
        proto::FromGrpc(stub_->List(&context, request, &reply), peer_));
    // Forward or not at all, whatever the registry says.
    if (!reply.next().empty() && reply.next() <= request.after()) {
      return proto::Error(absl::StatusCode::kDataLoss, peer_,
                          "a list that does not go on", "ascending ids");
    }
    request.set_after(reply.next());
    for (v1::PackageRecord& record : *reply.mutable_packages()) {
      packages.push_back(std::move(record));
    }
  } while (!request.after().empty());
  return packages;
}

absl::StatusOr<v1::LogEntry> GrpcClient::Revoke(const std::string& id,
                                                const std::string& reason) {
  v1::RevokeRequest request;
  request.set_id(id);
  request.set_reason(reason);
  grpc::ClientContext context;
  SetDeadline(&context);
  v1::RevokeReply reply;
  MOTET_RETURN_IF_ERROR(
      proto::FromGrpc(stub_->Revoke(&context, request, &reply), peer_));
  return std::move(*reply.mutable_entry());
}

absl::StatusOr<std::vector<v1::LogEntry>> GrpcClient::Log(uint64_t from) {
  std::vector<v1::LogEntry> entries;
  v1::LogRequest request;
  request.set_from(from);
  for (;;) {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::LogReply reply;
    MOTET_RETURN_IF_ERROR(
        proto::FromGrpc(stub_->Log(&context, request, &reply), peer_));
    for (v1::LogEntry& entry : *reply.mutable_entries()) {
      if (entry.index() != request.from()) {
        return proto::Error(absl::StatusCode::kDataLoss, peer_,
                            absl::StrCat("log entry ", entry.index()),
                            absl::StrCat("number ", request.from()),
                            "report it to the administrators");
      }
      request.set_from(entry.index() + 1);
      entries.push_back(std::move(entry));
    }
    if (reply.entries().empty() || request.from() >= reply.size()) {
      return entries;
    }
  }
}

}  // namespace motet::registry
