// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/index.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/retrieve/flat.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::retrieve {

using proto::Error;

absl::StatusOr<std::unique_ptr<Index>> Index::Open(const std::string& folder,
                                                   const OpenOptions& options) {
  std::unique_ptr<Index> index(new Index());
  index->folder_ = folder;
  MOTET_ASSIGN_OR_RETURN(index->header_, ReadIndexHeader(folder));
  // A writer may put another structure in the place of the one whose name was
  // just read.
  constexpr int kAttempts = 3;
  absl::Status status;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    status = index->Load(options);
    if (status.code() != absl::StatusCode::kNotFound) break;
  }
  MOTET_RETURN_IF_ERROR(status);
  return index;
}

absl::Status Index::Load(const OpenOptions& options) {
  MOTET_ASSIGN_OR_RETURN(store_, TextStore::OpenForReading(TextsPath(folder_)));
  MOTET_ASSIGN_OR_RETURN(blocks_, store_->Blocks());
  lengths_.clear();
  for (const Block& block : blocks_) {
    lengths_.insert(lengths_.end(), block.lengths.begin(), block.lengths.end());
  }
  const auto rows = static_cast<int64_t>(lengths_.size());
  dead_.assign(lengths_.size(), false);
  MOTET_ASSIGN_OR_RETURN(const std::vector<int64_t> dead, store_->DeadRows());
  for (const int64_t row : dead) {
    MOTET_RETURN_IF_ERROR(CheckRow("dead row", row));
    dead_[static_cast<size_t>(row)] = true;
  }
  documents_ = rows - static_cast<int64_t>(dead.size());
  terms_ = 0;
  for (int64_t row = 0; row < rows; ++row) {
    if (!dead_[static_cast<size_t>(row)]) {
      terms_ += lengths_[static_cast<size_t>(row)];
    }
  }
  MOTET_ASSIGN_OR_RETURN(vectors_,
                         MappedVectors::Open(folder_, rows, header_.width));
  if (options.verify) MOTET_RETURN_IF_ERROR(vectors_->Verify(blocks_));
  MOTET_ASSIGN_OR_RETURN(record_, ReadStructureRecord(*store_, folder_));
  if (!record_) return absl::OkStatus();
  MOTET_RETURN_IF_ERROR(CheckStructure(folder_, *record_, options.verify));
  MOTET_ASSIGN_OR_RETURN(
      structure_,
      Approximate::Read(StructuresPath(folder_) + "/" + record_->file,
                        record_->kind, vectors_->view(), /*writable=*/false));
  return absl::OkStatus();
}

// The text store's rows lead into the vectors, and no digest covers its keys.
absl::Status Index::CheckRow(absl::string_view what, int64_t row) const {
  const auto rows = static_cast<int64_t>(lengths_.size());
  if (row >= 0 && row < rows) return absl::OkStatus();
  return Error(absl::StatusCode::kDataLoss, TextsPath(folder_),
               absl::StrCat(what, " ", row),
               absl::StrCat("rows from 0, below ", rows),
               "build the index anew");
}

absl::Status Index::CheckBase(const TextEncoder& base) const {
  if (base.digest() == header_.encoder) return absl::OkStatus();
  return Error(
      absl::StatusCode::kFailedPrecondition, folder_,
      absl::StrCat("encoder ", base.folder(), ", ", proto::Hex(base.digest())),
      absl::StrCat("the one it was built with, ", header_.encoder_folder, ", ",
                   proto::Hex(header_.encoder)),
      "search with that encoder, or build an index with this one");
}

absl::StatusOr<std::vector<int64_t>> Index::RowsWhere(
    std::span<const std::pair<std::string, std::string>> filters) const {
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> fields, Fields());
  std::vector<int64_t> rows;
  for (size_t i = 0; i < filters.size(); ++i) {
    const auto& [field, value] = filters[i];
    if (std::find(fields.begin(), fields.end(), field) == fields.end()) {
      return proto::Invalid(
          "filter", absl::StrCat("field \"", field, "\""),
          fields.empty() ? std::string("none: no document has metadata")
                         : absl::StrCat("one of ", absl::StrJoin(fields, ", ")),
          "see `motet index info`");
    }
    MOTET_ASSIGN_OR_RETURN(const std::vector<int64_t> found,
                           store_->RowsWith(field, value));
    for (const int64_t row : found) {
      MOTET_RETURN_IF_ERROR(CheckRow("a field of row", row));
    }
    if (i == 0) {
      rows = found;
      continue;
    }
    std::vector<int64_t> both;
    std::set_intersection(rows.begin(), rows.end(), found.begin(), found.end(),
                          std::back_inserter(both));
    rows = std::move(both);
  }
  return rows;
}

absl::StatusOr<std::vector<Ranking>> Index::SearchVectors(
    std::span<const float> queries, int64_t k,
    const std::vector<int64_t>* only) const {
  const VectorView& view = vectors_->view();
  if (only != nullptr) {
    return SearchRows(view.data, *only, view.width, queries, k);
  }
  if (structure_ == nullptr) {
    const auto alive = [this](int64_t row) {
      return !dead_[static_cast<size_t>(row)];
    };
    return SearchFlat(
        view.data, 0, view.rows, view.width, queries, k,
        documents_ == view.rows ? std::function<bool(int64_t)>() : alive);
  }
  std::vector<Ranking> rankings;
  for (size_t at = 0; at < queries.size();
       at += static_cast<size_t>(view.width)) {
    MOTET_ASSIGN_OR_RETURN(
        Ranking ranking,
        SearchOne(queries.subspan(at, static_cast<size_t>(view.width)), k));
    rankings.push_back(std::move(ranking));
  }
  return rankings;
}

// Candidates of the structure and the best of the rows behind it, scored
// alike. Where the dead take so many places that too few candidates are left,
// more are asked for, and in the end all rows are scanned.
absl::StatusOr<Ranking> Index::SearchOne(std::span<const float> query,
                                         int64_t k) const {
  const VectorView& view = vectors_->view();
  const auto alive = [this](int64_t row) {
    return !dead_[static_cast<size_t>(row)];
  };
  const int64_t covered = structure_->rows();
  std::vector<int64_t> rows;
  for (int64_t ask = std::max<int64_t>(64, 2 * k);; ask *= 2) {
    if (ask >= covered / 2) {
      return SearchFlat(view.data, 0, view.rows, view.width, query, k,
                        alive)[0];
    }
    MOTET_ASSIGN_OR_RETURN(rows, structure_->Candidates(query, ask));
    std::erase_if(rows, [&](int64_t row) { return !alive(row); });
    if (static_cast<int64_t>(rows.size()) >= k) break;
  }
  std::sort(rows.begin(), rows.end());
  TopHits top(k);
  const auto add = [&](const Ranking& ranking) {
    for (const Hit& hit : ranking) top.Add(hit.row, hit.score);
  };
  add(SearchRows(view.data, rows, view.width, query, k)[0]);
  add(SearchFlat(view.data, covered, view.rows, view.width, query, k,
                 alive)[0]);
  return top.Take();
}

absl::StatusOr<Ranking> Index::SearchText(
    const std::string& query, int64_t k,
    const std::vector<int64_t>* only) const {
  Bm25Collection collection = {documents_, terms_, lengths_, nullptr};
  if (only != nullptr) {
    collection.allowed = [only](int64_t row) {
      return std::binary_search(only->begin(), only->end(), row);
    };
  }
  return SearchBm25(
      query, k, collection,
      [&](const std::string& term) -> absl::StatusOr<std::vector<Posting>> {
        MOTET_ASSIGN_OR_RETURN(std::vector<Posting> postings,
                               store_->Postings(term));
        for (const Posting& posting : postings) {
          MOTET_RETURN_IF_ERROR(CheckRow("a term of row", posting.row));
        }
        std::erase_if(postings, [&](const Posting& posting) {
          return dead_[static_cast<size_t>(posting.row)];
        });
        return postings;
      });
}

proto::Digest Index::ContentDigest() const {
  proto::Sha256Stream stream;
  stream.Update(WriteIndexHeader(header_));
  for (const Block& block : blocks_) {
    stream.Update(proto::ToBytes(block.vectors));
  }
  for (size_t row = 0; row < dead_.size(); ++row) {
    if (dead_[row]) stream.Update(absl::StrCat("dead ", row, "\n"));
  }
  return stream.Finish();
}

}  // namespace motet::retrieve
