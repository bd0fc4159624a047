// SPDX-License-Identifier: Apache-2.0
// A fetch from the client's side. The partial folder itself is the memory of
// an interrupted fetch: a chunk whose bytes are in place, by digest, is not
// asked for again, so that nothing has to be written down and nothing that was
// written down can be wrong.
#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/status.h"
#include "registry/client_files.h"
#include "registry/client_impl.h"
#include "registry/record.h"

namespace motet::registry {
namespace {

namespace fs = std::filesystem;

// Chunks asked for in one call: enough to keep the stream full, few enough
// that a broken call repeats little.
constexpr size_t kChunksPerCall = 256;

class Fetcher {
 public:
  Fetcher(v1::Registry::StubInterface* stub, const std::string& peer,
          const v1::PackageRecord& record, const std::string& partial,
          const Progress& progress)
      : stub_(stub),
        peer_(peer),
        record_(record),
        partial_(partial),
        progress_(progress),
        total_(TotalBytes(record)) {}

  absl::Status Run() {
    MOTET_RETURN_IF_ERROR(RemoveStrays());
    MOTET_RETURN_IF_ERROR(OpenFiles());
    for (size_t at = 0; at < wanted_.size(); at += kChunksPerCall) {
      const size_t end = std::min(wanted_.size(), at + kChunksPerCall);
      MOTET_RETURN_IF_ERROR(
          Receive({wanted_.begin() + at, wanted_.begin() + end}));
    }
    // Once more, those alone that came damaged or not at all.
    for (const std::string& sha256 : wanted_) {
      if (places_.count(sha256) > 0) MOTET_RETURN_IF_ERROR(Receive({sha256}));
    }
    MOTET_RETURN_IF_ERROR(CheckComplete());
    return Finish();
  }

 private:
  struct Place {
    int file;
    uint64_t offset;
    int chunk;
  };

  std::string PathOf(int file) const {
    return absl::StrCat(partial_, "/", record_.files(file).path());
  }

  // What another package's fetch into the same folder may have left.
  absl::Status RemoveStrays() {
    std::error_code error;
    std::vector<fs::path> strays;
    fs::recursive_directory_iterator it(partial_, error), end;
    for (; !error && it != end; it.increment(error)) {
      const std::string name = it->path().lexically_relative(partial_).string();
      const bool folder =
          it->symlink_status(error).type() == fs::file_type::directory;
      const bool known =
          std::any_of(record_.files().begin(), record_.files().end(),
                      [&](const v1::FileEntry& file) {
                        return folder ? file.path().rfind(name + "/", 0) == 0
                                      : file.path() == name;
                      });
      if (known) continue;
      strays.push_back(it->path());
      if (folder) it.disable_recursion_pending();
    }
    for (const fs::path& stray : strays) {
      if (!error) fs::remove_all(stray, error);
    }
    if (!error) return absl::OkStatus();
    return proto::Error(absl::StatusCode::kInternal, "fetch",
                        absl::StrCat("\"", error.message(), "\" in ", partial_),
                        "a folder to clear", "remove it and try again");
  }

  // Opens every file and finds out which chunks are not in place.
  absl::Status OpenFiles() {
    for (int f = 0; f < record_.files_size(); ++f) {
      const v1::FileEntry& entry = record_.files(f);
      MOTET_RETURN_IF_ERROR(
          proto::MakeDirectories(fs::path(PathOf(f)).parent_path().string()));
      MOTET_ASSIGN_OR_RETURN(FileAt file, FileAt::OpenToWrite(PathOf(f)));
      MOTET_ASSIGN_OR_RETURN(uint64_t size, file.Size());
      if (size > entry.size_bytes()) {
        MOTET_RETURN_IF_ERROR(file.Truncate(entry.size_bytes()));
        size = entry.size_bytes();
      }
      uint64_t offset = 0;
      for (int c = 0; c < entry.chunks_size(); ++c) {
        const v1::ChunkRef& chunk = entry.chunks(c);
        bool in_place = false;
        if (offset + chunk.size_bytes() <= size) {
          MOTET_ASSIGN_OR_RETURN(const std::string bytes,
                                 file.Read(offset, chunk.size_bytes()));
          in_place = proto::Sha256(bytes) == AsDigest(chunk.sha256());
        }
        if (in_place) {
          done_ += chunk.size_bytes();
        } else {
          std::vector<Place>& places = places_[chunk.sha256()];
          if (places.empty()) wanted_.push_back(chunk.sha256());
          places.push_back({f, offset, c});
        }
        offset += chunk.size_bytes();
      }
      files_.push_back(std::move(file));
    }
    return absl::OkStatus();
  }

  // Asks for these chunks and puts what comes undamaged in its places. What
  // does not stays in places_.
  absl::Status Receive(const std::vector<std::string>& digests) {
    v1::ChunksRequest request;
    for (const std::string& sha256 : digests) request.add_sha256(sha256);
    grpc::ClientContext context;
    const auto reader = stub_->Chunks(&context, request);
    v1::ChunkReply reply;
    absl::Status status;
    // No more answers than questions: a registry could send without end.
    for (size_t i = 0;
         i < digests.size() && status.ok() && reader->Read(&reply); ++i) {
      status = Store(reply);
    }
    if (status.ok() && reader->Read(&reply)) {
      status = proto::Error(
          absl::StatusCode::kDataLoss, peer_, "more chunks than were asked for",
          absl::StrCat(digests.size()), "report it to the administrators");
    }
    if (!status.ok()) context.TryCancel();
    const absl::Status answer = proto::FromGrpc(reader->Finish(), peer_);
    return status.ok() ? answer : status;
  }

  absl::Status Store(const v1::ChunkReply& reply) {
    if (!reply.error().empty()) {
      reasons_[reply.sha256()] = Printable(reply.error());
      return absl::OkStatus();
    }
    const std::string sha256 = proto::ToBytes(proto::Sha256(reply.data()));
    const auto found = places_.find(sha256);
    if (found == places_.end()) {
      // Damaged on the way, or never asked for: of no use either way.
      reasons_[reply.sha256()] =
          absl::StrCat("arrived with SHA-256 ", proto::Hex(sha256));
      return absl::OkStatus();
    }
    for (const Place& place : found->second) {
      const v1::ChunkRef& ref = record_.files(place.file).chunks(place.chunk);
      if (ref.size_bytes() != reply.data().size()) {
        return Lost(place, sha256, "its size is not the record's");
      }
      MOTET_RETURN_IF_ERROR(
          files_[place.file].Write(place.offset, reply.data()));
      done_ += reply.data().size();
    }
    places_.erase(found);
    if (progress_ && !progress_(done_, total_)) {
      return proto::Error(
          absl::StatusCode::kCancelled, absl::StrCat("fetch ", record_.id()),
          "a wish to stop", "to go on", "fetch again: what arrived is kept");
    }
    return absl::OkStatus();
  }

  absl::Status Lost(const Place& place, const std::string& sha256,
                    const std::string& reason) const {
    return proto::Error(
        absl::StatusCode::kDataLoss, absl::StrCat("fetch ", record_.id()),
        absl::StrCat("chunk ", place.chunk, " of ",
                     record_.files(place.file).path(), " (", reason, ")"),
        absl::StrCat("bytes with SHA-256 ", proto::Hex(sha256)),
        "let the owner publish the same package again: that repairs it");
  }

  absl::Status CheckComplete() const {
    for (const std::string& sha256 : wanted_) {
      const auto left = places_.find(sha256);
      if (left == places_.end()) continue;
      const auto reason = reasons_.find(sha256);
      return Lost(left->second.front(), sha256,
                  reason == reasons_.end() ? "not sent" : reason->second);
    }
    return absl::OkStatus();
  }

  // The record's own word about whole files, and durability.
  absl::Status Finish() {
    for (int f = 0; f < record_.files_size(); ++f) {
      const v1::FileEntry& entry = record_.files(f);
      MOTET_RETURN_IF_ERROR(files_[f].Sync());
      MOTET_ASSIGN_OR_RETURN(const proto::Digest actual,
                             proto::Sha256File(PathOf(f)));
      if (actual != AsDigest(entry.sha256())) {
        return proto::Error(
            absl::StatusCode::kDataLoss, absl::StrCat("fetch ", record_.id()),
            absl::StrCat(entry.path(), " with SHA-256 ", proto::Hex(actual)),
            proto::Hex(entry.sha256()), "report it to the administrators");
      }
      MOTET_RETURN_IF_ERROR(
          proto::SyncDirectory(fs::path(PathOf(f)).parent_path().string()));
    }
    return absl::OkStatus();
  }

  v1::Registry::StubInterface* const stub_;
  const std::string& peer_;
  const v1::PackageRecord& record_;
  const std::string& partial_;
  const Progress& progress_;
  const uint64_t total_;
  uint64_t done_ = 0;
  std::vector<FileAt> files_;
  std::vector<std::string> wanted_;                   // in the record's order
  std::map<std::string, std::vector<Place>> places_;  // still to be filled
  std::map<std::string, std::string> reasons_;        // why not yet
};

}  // namespace

absl::Status FetchFiles(v1::Registry::StubInterface* stub,
                        const std::string& peer,
                        const v1::PackageRecord& record,
                        const std::string& partial, const Progress& progress) {
  return Fetcher(stub, peer, record, partial, progress).Run();
}

}  // namespace motet::registry
