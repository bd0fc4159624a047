// SPDX-License-Identifier: Apache-2.0
// A document index at serving: vectors and structure mapped, texts in their
// store. It shows the state at its opening, whatever is written meanwhile.
// Nothing in it depends on adapters: every expert of a base searches the same
// bytes. Written by index_writer.h.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "compose/retrieve/index_files.h"
#include "compose/retrieve/ranking.h"
#include "compose/retrieve/text_encoder.h"
#include "compose/retrieve/text_store.h"

namespace motet::retrieve {

struct OpenOptions {
  // Compare all of vectors and structure with their digests; otherwise only
  // their sizes. Texts are checked as they are read.
  bool verify = true;
};

class Index {
 public:
  // NotFound: no index there. DataLoss: something in it is cut or altered.
  static absl::StatusOr<std::unique_ptr<Index>> Open(
      const std::string& folder, const OpenOptions& options = {});

  // FailedPrecondition when it was built with another base.
  absl::Status CheckBase(const TextEncoder& base) const;

  // Rows with field = value for every pair, ascending. InvalidArgument for a
  // field that no document has, with those that there are.
  absl::StatusOr<std::vector<int64_t>> RowsWhere(
      std::span<const std::pair<std::string, std::string>> filters) const;

  // The k best for each query, of all rows or of `only` (ascending); fewer
  // where there are fewer. Exact in a flat index, and always with `only`.
  absl::StatusOr<std::vector<Ranking>> SearchVectors(
      std::span<const float> queries, int64_t k,
      const std::vector<int64_t>* only = nullptr) const;
  absl::StatusOr<Ranking> SearchText(
      const std::string& query, int64_t k,
      const std::vector<int64_t>* only = nullptr) const;

  absl::StatusOr<Document> Get(int64_t row) const { return store_->Get(row); }
  absl::StatusOr<std::vector<std::string>> Fields() const {
    return store_->Fields();
  }
  // Of the header, every vector and every dead row: what searches see.
  proto::Digest ContentDigest() const;
  absl::Status VerifyTexts() const { return store_->Verify(); }

  const std::string& folder() const { return folder_; }
  const IndexHeader& header() const { return header_; }
  int64_t rows() const { return vectors_->view().rows; }
  int64_t documents() const { return documents_; }  // rows that are not dead
  // What finds near vectors, and for how many rows; the others are scanned.
  IndexKind kind() const { return record_ ? record_->kind : IndexKind::kFlat; }
  int64_t structure_rows() const { return record_ ? record_->rows : 0; }

 private:
  Index() = default;
  absl::Status Load(const OpenOptions& options);
  absl::Status CheckRow(absl::string_view what, int64_t row) const;
  absl::StatusOr<Ranking> SearchOne(std::span<const float> query,
                                    int64_t k) const;

  std::string folder_;
  IndexHeader header_;
  std::unique_ptr<TextStore> store_;
  std::vector<Block> blocks_;
  std::vector<int32_t> lengths_;  // in terms, by row
  std::vector<bool> dead_;        // by row
  int64_t documents_ = 0, terms_ = 0;
  std::unique_ptr<MappedVectors> vectors_;
  std::optional<StructureRecord> record_;
  std::unique_ptr<Approximate> structure_;
};

}  // namespace motet::retrieve
