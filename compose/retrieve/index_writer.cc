// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/index_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compose/math/tensor.h"
#include "compose/retrieve/bm25.h"
#include "proto/error.h"

namespace motet::retrieve {
namespace {

using proto::Error;

constexpr size_t kBlockDocuments = 256;
// A structure is written whenever it has grown by a quarter, and by so much.
constexpr int64_t kWriteRows = 65536;

absl::Status Failed(const std::string& path) {
  const int error = errno;
  return Error(error == ENOSPC ? absl::StatusCode::kResourceExhausted
                               : absl::StatusCode::kInternal,
               path, std::strerror(error), "a file that can be written",
               "free space or check the disk, then run the command again; "
               "nothing acknowledged was lost");
}

// Beside readers, which see only rows that the text store has.
absl::Status WriteAt(int fd, const std::string& path, const char* bytes,
                     int64_t size, int64_t offset) {
  while (size > 0) {
    const ssize_t n = pwrite(fd, bytes, static_cast<size_t>(size), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Failed(path);
    bytes += n;
    size -= n;
    offset += n;
  }
  return fdatasync(fd) == 0 ? absl::OkStatus() : Failed(path);
}

}  // namespace

absl::StatusOr<std::unique_ptr<IndexWriter>> IndexWriter::Create(
    const std::string& folder, const IndexHeader& header) {
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder));
  if (!proto::Exists(HeaderPath(folder))) {
    MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                           proto::ListDirectory(folder));
    const bool ours =
        std::all_of(names.begin(), names.end(),
                    [](const std::string& name) { return name == "lock"; });
    if (!ours) {
      return Error(absl::StatusCode::kFailedPrecondition, folder,
                   absl::StrCat("a folder with ", names.front(), " in it"),
                   "an index, or an empty folder or none",
                   "choose another folder");
    }
  }
  MOTET_ASSIGN_OR_RETURN(
      auto lock, proto::FileLock::Take(LockPath(folder), "writing the index"));
  if (proto::Exists(HeaderPath(folder))) {
    MOTET_ASSIGN_OR_RETURN(const IndexHeader there, ReadIndexHeader(folder));
    IndexHeader same = there;
    same.encoder_folder = header.encoder_folder;
    if (same != header) {
      return Error(
          absl::StatusCode::kFailedPrecondition, folder,
          absl::StrCat("an index of kind ", Name(header.kind), " and encoder ",
                       proto::Hex(header.encoder)),
          absl::StrCat("the one that is there: kind ", Name(there.kind),
                       ", encoder ", there.encoder_folder, ", ",
                       proto::Hex(there.encoder)),
          "remove the folder to build another index there");
    }
    std::unique_ptr<IndexWriter> writer(
        new IndexWriter(folder, there, std::move(lock)));
    MOTET_RETURN_IF_ERROR(writer->Load());
    return writer;
  }
  MOTET_RETURN_IF_ERROR(
      proto::WriteFileAtomic(HeaderPath(folder), WriteIndexHeader(header)));
  std::unique_ptr<IndexWriter> writer(
      new IndexWriter(folder, header, std::move(lock)));
  MOTET_RETURN_IF_ERROR(writer->Load());
  return writer;
}

absl::StatusOr<std::unique_ptr<IndexWriter>> IndexWriter::Open(
    const std::string& folder) {
  MOTET_ASSIGN_OR_RETURN(IndexHeader header, ReadIndexHeader(folder));
  MOTET_ASSIGN_OR_RETURN(
      auto lock, proto::FileLock::Take(LockPath(folder), "writing the index"));
  std::unique_ptr<IndexWriter> writer(
      new IndexWriter(folder, std::move(header), std::move(lock)));
  MOTET_RETURN_IF_ERROR(writer->Load());
  return writer;
}

IndexWriter::~IndexWriter() {
  if (fd_ >= 0) close(fd_);
}

absl::Status IndexWriter::Load() {
  MOTET_ASSIGN_OR_RETURN(store_, TextStore::OpenForWriting(TextsPath(folder_)));
  MOTET_ASSIGN_OR_RETURN(const std::vector<Block> blocks, store_->Blocks());
  if (!blocks.empty()) rows_ = blocks.back().first + blocks.back().rows;
  const std::string path = VectorsPath(folder_);
  fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  struct stat info = {};
  if (fd_ < 0 || fstat(fd_, &info) != 0) return Failed(path);
  const int64_t bytes =
      rows_ * header_.width * static_cast<int64_t>(sizeof(float));
  if (info.st_size < bytes) {
    return Error(absl::StatusCode::kDataLoss, path,
                 absl::StrCat(info.st_size, " bytes"),
                 absl::StrCat("at least ", bytes),
                 "restore the index from a backup or build it anew");
  }
  // What a killed process left behind the last commit.
  if (info.st_size > bytes && ftruncate(fd_, bytes) != 0) return Failed(path);
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(StructuresPath(folder_)));
  MOTET_RETURN_IF_ERROR(proto::SyncDirectory(folder_));
  MOTET_ASSIGN_OR_RETURN(record_, ReadStructureRecord(*store_, folder_));
  MOTET_RETURN_IF_ERROR(RemoveTemporaries());
  return RemoveOtherStructures();
}

// Of a process that died while it replaced a file.
absl::Status IndexWriter::RemoveTemporaries() const {
  MOTET_ASSIGN_OR_RETURN(const auto names, proto::ListDirectory(folder_));
  for (const std::string& name : names) {
    if (!absl::StartsWith(name, "texts.acknowledged.tmp.")) continue;
    std::error_code ignored;
    std::filesystem::remove(folder_ + "/" + name, ignored);
  }
  return absl::OkStatus();
}

absl::Status IndexWriter::RemoveOtherStructures() const {
  const std::string folder = StructuresPath(folder_);
  MOTET_ASSIGN_OR_RETURN(const auto names, proto::ListDirectory(folder));
  for (const std::string& name : names) {
    if (record_ && name == record_->file) continue;
    std::error_code ignored;
    std::filesystem::remove(folder + "/" + name, ignored);
  }
  return absl::OkStatus();
}

absl::Status IndexWriter::Add(std::span<const Document> documents,
                              std::span<const float> vectors, bool replace) {
  if (documents.empty()) return absl::OkStatus();
  const auto count = static_cast<int64_t>(documents.size());
  MOTET_CHECK(static_cast<int64_t>(vectors.size()) == count * header_.width);
  const absl::string_view bytes(reinterpret_cast<const char*>(vectors.data()),
                                vectors.size_bytes());
  Block block;
  block.first = rows_;
  block.rows = count;
  block.vectors = proto::Sha256(bytes);
  for (const Document& document : documents) {
    block.lengths.push_back(
        static_cast<int32_t>(TermsOf(TextOf(document)).size()));
  }
  MOTET_RETURN_IF_ERROR(
      WriteAt(fd_, VectorsPath(folder_), bytes.data(),
              static_cast<int64_t>(bytes.size()),
              rows_ * header_.width * static_cast<int64_t>(sizeof(float))));
  MOTET_RETURN_IF_ERROR(store_->Commit(block, documents, replace));
  rows_ += count;
  return absl::OkStatus();
}

absl::Status IndexWriter::Remove(std::span<const std::string> ids) {
  return store_->Remove(ids);
}

absl::Status IndexWriter::WriteStructure(const Approximate& structure,
                                         IndexKind kind) {
  StructureRecord record;
  record.kind = kind;
  record.rows = structure.rows();
  record.file = absl::StrCat(Name(kind), "-", record.rows);
  const std::string path = StructuresPath(folder_) + "/" + record.file;
  const std::string partial = path + ".partial";
  MOTET_RETURN_IF_ERROR(structure.Write(partial));
  std::error_code error;
  record.bytes =
      static_cast<int64_t>(std::filesystem::file_size(partial, error));
  MOTET_ASSIGN_OR_RETURN(record.sha256, proto::Sha256File(partial));
  MOTET_RETURN_IF_ERROR(proto::RenameDurably(partial, path));
  MOTET_RETURN_IF_ERROR(
      store_->SetValue("structure", WriteStructureRecord(record)));
  record_ = record;
  return RemoveOtherStructures();
}

absl::Status IndexWriter::Build(bool whole,
                                const std::function<void(double)>& progress) {
  const IndexKind kind = KindFor(header_.kind, rows_);
  if (kind == IndexKind::kFlat) return absl::OkStatus();
  const bool goes_on = record_ && record_->kind == kind;
  const int64_t behind = rows_ - (goes_on ? record_->rows : 0);
  if (behind == 0) return absl::OkStatus();
  constexpr int64_t kScanned = 1000;
  if (goes_on && !whole && behind <= std::max(kScanned, rows_ / 20)) {
    return absl::OkStatus();
  }
  MOTET_ASSIGN_OR_RETURN(const auto vectors,
                         MappedVectors::Open(folder_, rows_, header_.width));
  std::unique_ptr<Approximate> structure;
  if (goes_on) {
    MOTET_RETURN_IF_ERROR(CheckStructure(folder_, *record_, /*digest=*/true));
    MOTET_ASSIGN_OR_RETURN(
        structure,
        Approximate::Read(StructuresPath(folder_) + "/" + record_->file, kind,
                          vectors->view(), /*writable=*/true));
  } else {
    structure = Approximate::New(kind, header_.width);
  }
  int64_t written = structure->rows();
  MOTET_RETURN_IF_ERROR(structure->Extend(vectors->view(), rows_, [&] {
    const int64_t done = structure->rows();
    if (progress) {
      progress(static_cast<double>(done) / static_cast<double>(rows_));
    }
    if (done < rows_ && done - written < std::max(kWriteRows, written / 4)) {
      return absl::OkStatus();
    }
    written = done;
    return WriteStructure(*structure, kind);
  }));
  return absl::OkStatus();
}

IndexHeader HeaderFor(const TextEncoder& base, IndexKind kind) {
  std::error_code error;
  const auto path = std::filesystem::absolute(base.folder(), error);
  return {base.digest(),
          error ? base.folder() : path.lexically_normal().string(),
          base.width(), base.max_tokens(), kind};
}

absl::StatusOr<AddReport> AddCorpus(IndexWriter& writer,
                                    const TextEncoder& base,
                                    const std::string& path,
                                    const AddOptions& options) {
  if (base.digest() != writer.header().encoder) {
    return Error(
        absl::StatusCode::kFailedPrecondition, base.folder(),
        absl::StrCat("encoder ", proto::Hex(base.digest())),
        absl::StrCat("the index's, ", proto::Hex(writer.header().encoder), ", ",
                     writer.header().encoder_folder),
        "add documents by the encoder that the index was built with");
  }
  AddReport report;
  int64_t all = 0, empty = 0;
  // First look: everything that can be wrong is said before anything is done.
  MOTET_RETURN_IF_ERROR(ForEachDocument(path, [&](const Document& document,
                                                  const std::string& where) {
    if (IsEmpty(document)) {
      ++empty;
      return absl::OkStatus();
    }
    ++all;
    if (options.replace) return absl::OkStatus();
    MOTET_ASSIGN_OR_RETURN(const auto row, writer.texts().RowOf(document.id));
    if (!row) return absl::OkStatus();
    MOTET_ASSIGN_OR_RETURN(const Document there, writer.texts().Get(*row));
    if (DocumentJson(there) == DocumentJson(document)) {
      return absl::OkStatus();
    }
    return Error(absl::StatusCode::kAlreadyExists, where,
                 absl::StrCat("document ", document.id,
                              ", in the index with another text"),
                 "a new id, or the same text",
                 "--replace puts the new text in its place");
  }));
  report.empty = empty;
  std::vector<Document> block;
  int64_t done = 0;
  const auto flush = [&]() -> absl::Status {
    std::vector<std::string> texts;
    for (const Document& document : block) texts.push_back(TextOf(document));
    MOTET_ASSIGN_OR_RETURN(const Vectors vectors, base.Encode(texts));
    report.cut += vectors.cut;
    MOTET_RETURN_IF_ERROR(writer.Add(block, vectors.values, options.replace));
    done += static_cast<int64_t>(block.size());
    if (options.progress) options.progress(done, all);
    block.clear();
    return absl::OkStatus();
  };
  MOTET_RETURN_IF_ERROR(ForEachDocument(
      path, [&](Document document, const std::string&) -> absl::Status {
        if (IsEmpty(document)) return absl::OkStatus();
        MOTET_ASSIGN_OR_RETURN(const auto row,
                               writer.texts().RowOf(document.id));
        if (row) {
          MOTET_ASSIGN_OR_RETURN(const Document there,
                                 writer.texts().Get(*row));
          if (DocumentJson(there) == DocumentJson(document)) {
            ++report.unchanged;
            ++done;
            return absl::OkStatus();
          }
        }
        ++(row ? report.replaced : report.added);
        block.push_back(std::move(document));
        return block.size() == kBlockDocuments ? flush() : absl::OkStatus();
      }));
  if (!block.empty()) MOTET_RETURN_IF_ERROR(flush());
  return report;
}

}  // namespace motet::retrieve
