// SPDX-License-Identifier: Apache-2.0
// The files of an index (docs/retrieval.md has the layout): its header, the
// mapped vectors, and the record of its structure.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "compose/retrieve/approximate.h"
#include "compose/retrieve/text_store.h"
#include "proto/digest.h"

namespace motet::retrieve {

// index.json, written once, before the first document.
struct IndexHeader {
  proto::Digest encoder{};            // TextEncoder::digest of the base
  std::string encoder_folder;         // where it lay then
  int64_t width = 0;                  // numbers of a vector
  int64_t max_tokens = 0;             // where the encoder cuts a text
  IndexKind kind = IndexKind::kAuto;  // as asked for
  bool operator==(const IndexHeader&) const = default;
};
std::string WriteIndexHeader(const IndexHeader& header);
// InvalidArgument for an unknown, missing or ill-typed field or another
// format; DataLoss where the header's own digest says that it was altered.
absl::StatusOr<IndexHeader> ParseIndexHeader(absl::string_view json,
                                             const std::string& where);
// NotFound where the folder is no index.
absl::StatusOr<IndexHeader> ReadIndexHeader(const std::string& folder);

// What the text store says of the structure that is in force.
struct StructureRecord {
  IndexKind kind = IndexKind::kFlat;
  std::string file;  // its name below structures/
  int64_t rows = 0, bytes = 0;
  proto::Digest sha256{};
};
std::string WriteStructureRecord(const StructureRecord& record);
absl::StatusOr<StructureRecord> ParseStructureRecord(absl::string_view json,
                                                     const std::string& where);
// Nothing where there is none.
absl::StatusOr<std::optional<StructureRecord>> ReadStructureRecord(
    const TextStore& store, const std::string& folder);
// OK when the file is as long as it was and has the digest that it had.
absl::Status CheckStructure(const std::string& folder,
                            const StructureRecord& record, bool digest);

std::string HeaderPath(const std::string& folder);
std::string VectorsPath(const std::string& folder);
std::string TextsPath(const std::string& folder);
std::string StructuresPath(const std::string& folder);
std::string LockPath(const std::string& folder);

// vectors.f32, read where it lies: rows after one another, no header.
class MappedVectors {
 public:
  // DataLoss where the file is shorter than the rows that it must hold.
  static absl::StatusOr<std::unique_ptr<MappedVectors>> Open(
      const std::string& folder, int64_t rows, int64_t width);
  ~MappedVectors();
  const VectorView& view() const { return view_; }
  // DataLoss names the first block whose bytes are not what was written.
  absl::Status Verify(std::span<const Block> blocks) const;

 private:
  MappedVectors() = default;
  std::string path_;
  void* address_ = nullptr;
  size_t bytes_ = 0;
  VectorView view_;
};

}  // namespace motet::retrieve
