// SPDX-License-Identifier: Apache-2.0
// Makes and changes a document index. One writer at a time (a lock file);
// readers go on with what they have. What a call has acknowledged is on the
// disk: a process that is killed loses only what it was doing, and the same
// command goes on from there.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compose/retrieve/index_files.h"
#include "compose/retrieve/text_encoder.h"
#include "compose/retrieve/text_store.h"
#include "proto/files.h"

namespace motet::retrieve {

class IndexWriter {
 public:
  // An index of this header: made, or, where one with the same header is
  // there already, opened. FailedPrecondition for one with another header.
  static absl::StatusOr<std::unique_ptr<IndexWriter>> Create(
      const std::string& folder, const IndexHeader& header);
  // NotFound where none is.
  static absl::StatusOr<std::unique_ptr<IndexWriter>> Open(
      const std::string& folder);
  ~IndexWriter();

  // All of them or none, on the disk when it returns OK. vectors: [N,C].
  // AlreadyExists for an id that is there, unless its text shall be replaced.
  absl::Status Add(std::span<const Document> documents,
                   std::span<const float> vectors, bool replace = false);
  // All of them or none; NotFound names an id that is not there.
  absl::Status Remove(std::span<const std::string> ids);
  // Brings the structure up to the rows that are there, when the kind has one
  // and, unless `whole`, so many are behind it that scanning them costs more:
  // 1,000 and a twentieth of all. It is written now and then on the way; an
  // interrupted call goes on from what was written last.
  absl::Status Build(bool whole, const std::function<void(double)>& progress);

  const IndexHeader& header() const { return header_; }
  const TextStore& texts() const { return *store_; }
  int64_t rows() const { return rows_; }
  int64_t structure_rows() const { return record_ ? record_->rows : 0; }

 private:
  IndexWriter(std::string folder, IndexHeader header, proto::FileLock lock)
      : folder_(std::move(folder)),
        header_(std::move(header)),
        lock_(std::move(lock)) {}
  absl::Status Load();
  absl::Status WriteStructure(const Approximate& structure, IndexKind kind);
  absl::Status RemoveTemporaries() const;
  absl::Status RemoveOtherStructures() const;

  std::string folder_;
  IndexHeader header_;
  proto::FileLock lock_;
  std::unique_ptr<TextStore> store_;
  int fd_ = -1;  // of the vectors
  int64_t rows_ = 0;
  std::optional<StructureRecord> record_;
};

// What became of a corpus.jsonl.
struct AddReport {
  int64_t added = 0, replaced = 0;
  int64_t unchanged = 0;  // there already, to the byte: of an interrupted run
  int64_t cut = 0, empty = 0;
};
struct AddOptions {
  bool replace = false;
  // Documents that are safe, of those that the file holds.
  std::function<void(int64_t done, int64_t all)> progress;
};
// Encodes a corpus.jsonl by the base and adds it, a block of 256 documents at
// a time. The file is read and checked as a whole first. AlreadyExists, before
// anything is written, for an id that is there with another text.
absl::StatusOr<AddReport> AddCorpus(IndexWriter& writer,
                                    const TextEncoder& base,
                                    const std::string& path,
                                    const AddOptions& options);

IndexHeader HeaderFor(const TextEncoder& base, IndexKind kind);

}  // namespace motet::retrieve
