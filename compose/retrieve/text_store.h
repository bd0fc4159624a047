// SPDX-License-Identifier: Apache-2.0
// The texts of an index and all that is counted about them, in RocksDB: the
// only file here that knows RocksDB, and the index's one point of commit. A
// row is there when Commit has returned, and never in part; whatever lies in
// other files beyond `rows` is left over from a process that died.
//
// Keys of the one column family (numbers big-endian, 8 bytes):
//   b ROW                 a block of rows: how many, the SHA-256 of their
//                         vectors, the number of terms of each (4 bytes)
//   d ROW                 the document, JSON as in a corpus.jsonl
//   f FIELD 0 VALUE 0 ROW metadata
//   i ID                  the row of a document
//   p TERM 0 ROW          postings of the block that begins at ROW: 4 bytes of
//                         row within it and 4 of count each
//   s NAME                values of the index
//   x ROW                 the row is dead: replaced or removed
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
#include "compose/retrieve/beir.h"
#include "compose/retrieve/bm25.h"
#include "proto/digest.h"

namespace motet::retrieve {

struct Block {
  int64_t first = 0, rows = 0;
  proto::Digest vectors{};       // SHA-256 of their bytes
  std::vector<int32_t> lengths;  // in terms, of each row
};

// One process writes, any number read beside it; a reader sees the state at
// its opening. Thread-safe.
class TextStore {
 public:
  virtual ~TextStore() = default;
  // Creates one where there is none. The caller holds the index's lock.
  static absl::StatusOr<std::unique_ptr<TextStore>> OpenForWriting(
      const std::string& folder);
  // NotFound where there is none; writes nothing.
  static absl::StatusOr<std::unique_ptr<TextStore>> OpenForReading(
      const std::string& folder);

  // All or nothing, on the disk when it returns OK. documents: one a row of
  // the block, in their order, with ids that are not there or, with
  // `replace`, whose rows die.
  virtual absl::Status Commit(const Block& block,
                              std::span<const Document> documents,
                              bool replace) = 0;
  // Likewise, for ids that are all there (NotFound names one that is not).
  virtual absl::Status Remove(std::span<const std::string> ids) = 0;
  virtual absl::Status SetValue(const std::string& name,
                                const std::string& value) = 0;

  virtual absl::StatusOr<std::string> Value(const std::string& name) const = 0;
  virtual absl::StatusOr<std::vector<Block>> Blocks() const = 0;
  virtual absl::StatusOr<std::vector<int64_t>> DeadRows() const = 0;
  // Nothing for an id that is not there.
  virtual absl::StatusOr<std::optional<int64_t>> RowOf(
      const std::string& id) const = 0;
  virtual absl::StatusOr<Document> Get(int64_t row) const = 0;
  // Dead rows among them, ascending.
  virtual absl::StatusOr<std::vector<Posting>> Postings(
      const std::string& term) const = 0;
  // Rows whose field has this value, ascending, without dead ones.
  virtual absl::StatusOr<std::vector<int64_t>> RowsWith(
      const std::string& field, const std::string& value) const = 0;
  // The names of all metadata fields of live rows.
  virtual absl::StatusOr<std::vector<std::string>> Fields() const = 0;
  // Reads everything against RocksDB's checksums.
  virtual absl::Status Verify() const = 0;
};

// For tests of damage: the key of TERM's postings, long terms by digest.
std::string TermKey(const std::string& term);
std::string DocumentJson(const Document& document);

}  // namespace motet::retrieve
