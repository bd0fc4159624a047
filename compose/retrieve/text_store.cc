// SPDX-License-Identifier: Apache-2.0
#include "compose/retrieve/text_store.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <map>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::retrieve {
namespace {

using proto::Error;
using rocksdb::Slice;

constexpr char kEnd = '\0';  // of a name within a key

std::string Number(int64_t value) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) {
    bytes[static_cast<size_t>(i)] = static_cast<char>(value >> (56 - 8 * i));
  }
  return bytes;
}
int64_t NumberAt(absl::string_view bytes, size_t at) {
  int64_t value = 0;
  for (size_t i = 0; i < 8; ++i) {
    value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  }
  return value;
}
void Append4(std::string& to, int32_t value) {
  for (int shift : {24, 16, 8, 0}) {
    to.push_back(static_cast<char>(value >> shift));
  }
}
int32_t At4(absl::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) {
    value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  }
  return static_cast<int32_t>(value);
}

std::string BlockKey(int64_t first) { return "b" + Number(first); }
std::string DocumentKey(int64_t row) { return "d" + Number(row); }
std::string IdKey(const std::string& id) { return "i" + id; }
std::string ValueKey(const std::string& name) { return "s" + name; }
std::string DeadKey(int64_t row) { return "x" + Number(row); }
std::string FieldPrefix(const std::string& field) {
  return absl::StrCat("f", field, absl::string_view(&kEnd, 1));
}
std::string FieldKey(const std::string& field, const std::string& value) {
  return absl::StrCat(FieldPrefix(field), value, absl::string_view(&kEnd, 1));
}

absl::Status FromRocks(const rocksdb::Status& status,
                       const std::string& folder) {
  if (status.ok()) return absl::OkStatus();
  const std::string got =
      absl::StrCat("\"", absl::CHexEscape(status.ToString()), "\"");
  if (status.IsNoSpace() || status.subcode() == rocksdb::Status::kSpaceLimit) {
    return Error(absl::StatusCode::kResourceExhausted, folder, got,
                 "free space on its disk",
                 "free some and run the command again; nothing was lost");
  }
  if (status.IsCorruption()) {
    return Error(absl::StatusCode::kDataLoss, folder, got,
                 "an undamaged text store",
                 "restore the index from a backup or build it anew");
  }
  return Error(absl::StatusCode::kInternal, folder, got, "a working text store",
               "check the disk and the folder's permissions");
}

absl::Status Damaged(const std::string& folder, absl::string_view what) {
  return FromRocks(rocksdb::Status::Corruption(Slice(what.data(), what.size())),
                   folder);
}

class Silent : public rocksdb::Logger {
 public:
  Silent() : Logger(rocksdb::InfoLogLevel::FATAL_LEVEL) {}
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

rocksdb::Options DatabaseOptions(bool write) {
  rocksdb::Options options;
  options.create_if_missing = write;
  options.info_log = std::make_shared<Silent>();
  options.max_open_files = -1;  // a reader keeps what a writer replaces
  rocksdb::BlockBasedTableOptions table;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.block_cache = rocksdb::NewLRUCache(32 << 20);
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

std::string AcknowledgedPath(const std::string& folder) {
  return folder + ".acknowledged";
}

class RocksTextStore : public TextStore {
 public:
  RocksTextStore(std::string folder, rocksdb::DB* db)
      : folder_(std::move(folder)), db_(db) {}

  absl::Status Commit(const Block& block, std::span<const Document> documents,
                      bool replace) override;
  absl::Status Remove(std::span<const std::string> ids) override;
  absl::Status SetValue(const std::string& name,
                        const std::string& value) override;
  absl::StatusOr<std::string> Value(const std::string& name) const override;
  absl::StatusOr<std::vector<Block>> Blocks() const override;
  absl::StatusOr<std::vector<int64_t>> DeadRows() const override;
  absl::StatusOr<std::optional<int64_t>> RowOf(
      const std::string& id) const override;
  absl::StatusOr<Document> Get(int64_t row) const override;
  absl::StatusOr<std::vector<Posting>> Postings(
      const std::string& term) const override;
  absl::StatusOr<std::vector<int64_t>> RowsWith(
      const std::string& field, const std::string& value) const override;
  absl::StatusOr<std::vector<std::string>> Fields() const override;
  absl::Status Verify() const override;

 private:
  // Calls take(key behind the prefix, value) in the order of keys.
  absl::Status ForEach(
      const std::string& prefix,
      const std::function<absl::Status(absl::string_view rest,
                                       absl::string_view value)>& take) const;
  // Puts an end to a row, in the batch.
  absl::Status Bury(rocksdb::WriteBatch& batch, int64_t row) const;
  absl::Status Write(rocksdb::WriteBatch& batch);

  std::string folder_;
  std::unique_ptr<rocksdb::DB> db_;
};

absl::Status RocksTextStore::ForEach(
    const std::string& prefix,
    const std::function<absl::Status(absl::string_view, absl::string_view)>&
        take) const {
  std::unique_ptr<rocksdb::Iterator> it(
      db_->NewIterator(rocksdb::ReadOptions()));
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix);
       it->Next()) {
    absl::string_view key(it->key().data(), it->key().size());
    key.remove_prefix(prefix.size());
    MOTET_RETURN_IF_ERROR(
        take(key, absl::string_view(it->value().data(), it->value().size())));
  }
  return FromRocks(it->status(), folder_);
}

absl::Status RocksTextStore::Write(rocksdb::WriteBatch& batch) {
  rocksdb::WriteOptions options;
  options.sync = true;
  MOTET_RETURN_IF_ERROR(FromRocks(db_->Write(options, &batch), folder_));
  return proto::WriteFileAtomic(
      AcknowledgedPath(folder_),
      absl::StrCat(db_->GetLatestSequenceNumber(), "\n"));
}

absl::Status RocksTextStore::Bury(rocksdb::WriteBatch& batch,
                                  int64_t row) const {
  MOTET_ASSIGN_OR_RETURN(const Document document, Get(row));
  batch.Delete(DocumentKey(row));
  batch.Delete(IdKey(document.id));
  for (const auto& [field, value] : document.metadata) {
    batch.Delete(FieldKey(field, value) + Number(row));
  }
  batch.Put(DeadKey(row), "");
  return absl::OkStatus();
}

absl::Status RocksTextStore::Commit(const Block& block,
                                    std::span<const Document> documents,
                                    bool replace) {
  rocksdb::WriteBatch batch;
  std::set<std::string> ids;
  for (const Document& document : documents) {
    MOTET_ASSIGN_OR_RETURN(const auto row, RowOf(document.id));
    if ((row && !replace) || !ids.insert(document.id).second) {
      return Error(absl::StatusCode::kAlreadyExists, folder_,
                   absl::StrCat("document ", document.id, " again"),
                   "every id once", "--replace puts a new text in its place");
    }
    if (row) MOTET_RETURN_IF_ERROR(Bury(batch, *row));
  }
  std::string record;
  Append4(record, static_cast<int32_t>(block.rows));
  record += proto::ToBytes(block.vectors);
  std::map<std::string, std::string> postings;
  for (size_t i = 0; i < documents.size(); ++i) {
    const Document& document = documents[i];
    const int64_t row = block.first + static_cast<int64_t>(i);
    batch.Put(DocumentKey(row), DocumentJson(document));
    batch.Put(IdKey(document.id), Number(row));
    for (const auto& [field, value] : document.metadata) {
      batch.Put(FieldKey(field, value) + Number(row), "");
    }
    std::map<std::string, int32_t> counts;
    for (std::string& term : TermsOf(TextOf(document))) {
      ++counts[std::move(term)];
    }
    for (const auto& [term, count] : counts) {
      std::string& list = postings[term];
      Append4(list, static_cast<int32_t>(i));
      Append4(list, count);
    }
    Append4(record, block.lengths[i]);
  }
  for (const auto& [term, list] : postings) {
    batch.Put(TermKey(term) + Number(block.first), list);
  }
  batch.Put(BlockKey(block.first), record);
  return Write(batch);
}

absl::Status RocksTextStore::Remove(std::span<const std::string> ids) {
  rocksdb::WriteBatch batch;
  std::set<std::string> seen;
  for (const std::string& id : ids) {
    if (!seen.insert(id).second) continue;
    MOTET_ASSIGN_OR_RETURN(const auto row, RowOf(id));
    if (!row) {
      return Error(absl::StatusCode::kNotFound, folder_,
                   absl::StrCat("document ", id), "one that is in the index",
                   "nothing was removed");
    }
    MOTET_RETURN_IF_ERROR(Bury(batch, *row));
  }
  return Write(batch);
}

absl::Status RocksTextStore::SetValue(const std::string& name,
                                      const std::string& value) {
  rocksdb::WriteBatch batch;
  batch.Put(ValueKey(name), value);
  return Write(batch);
}

absl::StatusOr<std::string> RocksTextStore::Value(
    const std::string& name) const {
  std::string value;
  const rocksdb::Status status =
      db_->Get(rocksdb::ReadOptions(), ValueKey(name), &value);
  if (status.IsNotFound()) return "";
  MOTET_RETURN_IF_ERROR(FromRocks(status, folder_));
  return value;
}

absl::StatusOr<std::vector<Block>> RocksTextStore::Blocks() const {
  std::vector<Block> blocks;
  int64_t rows = 0;
  MOTET_RETURN_IF_ERROR(ForEach("b", [&](absl::string_view key,
                                         absl::string_view value) {
    constexpr size_t kHead = 4 + 32;
    if (key.size() != 8 || value.size() < kHead) {
      return Damaged(folder_, "a block's record is cut");
    }
    Block block;
    block.first = NumberAt(key, 0);
    block.rows = At4(value, 0);
    if (block.first != rows || block.rows < 1 ||
        value.size() != kHead + 4 * static_cast<size_t>(block.rows)) {
      return Damaged(folder_, "blocks of rows do not follow each other");
    }
    block.vectors = *proto::DigestFromBytes(value.substr(4, 32));
    for (int64_t i = 0; i < block.rows; ++i) {
      block.lengths.push_back(At4(value, kHead + 4 * static_cast<size_t>(i)));
    }
    rows += block.rows;
    blocks.push_back(std::move(block));
    return absl::OkStatus();
  }));
  return blocks;
}

absl::StatusOr<std::vector<int64_t>> RocksTextStore::DeadRows() const {
  std::vector<int64_t> rows;
  MOTET_RETURN_IF_ERROR(
      ForEach("x", [&](absl::string_view key, absl::string_view) {
        if (key.size() != 8) return Damaged(folder_, "a row without number");
        rows.push_back(NumberAt(key, 0));
        return absl::OkStatus();
      }));
  return rows;
}

absl::StatusOr<std::optional<int64_t>> RocksTextStore::RowOf(
    const std::string& id) const {
  std::string value;
  const rocksdb::Status status =
      db_->Get(rocksdb::ReadOptions(), IdKey(id), &value);
  if (status.IsNotFound()) return std::nullopt;
  MOTET_RETURN_IF_ERROR(FromRocks(status, folder_));
  if (value.size() != 8) return Damaged(folder_, "an id without a row");
  return NumberAt(value, 0);
}

absl::StatusOr<Document> RocksTextStore::Get(int64_t row) const {
  std::string value;
  const rocksdb::Status status =
      db_->Get(rocksdb::ReadOptions(), DocumentKey(row), &value);
  if (status.IsNotFound()) {
    return Damaged(folder_, absl::StrCat("row ", row, " has no document"));
  }
  MOTET_RETURN_IF_ERROR(FromRocks(status, folder_));
  return ParseDocument(value, absl::StrCat(folder_, " row ", row));
}

absl::StatusOr<std::vector<Posting>> RocksTextStore::Postings(
    const std::string& term) const {
  std::vector<Posting> postings;
  MOTET_RETURN_IF_ERROR(ForEach(
      TermKey(term), [&](absl::string_view key, absl::string_view value) {
        if (key.size() != 8 || value.size() % 8 != 0) {
          return Damaged(folder_, "postings are cut");
        }
        const int64_t first = NumberAt(key, 0);
        constexpr int64_t kMost = int64_t{1} << 62;  // a sum stays a number
        if (first < 0 || first > kMost) {
          return Damaged(folder_, absl::StrCat("postings of row ", first));
        }
        for (size_t at = 0; at < value.size(); at += 8) {
          postings.push_back({first + At4(value, at), At4(value, at + 4)});
        }
        return absl::OkStatus();
      }));
  return postings;
}

absl::StatusOr<std::vector<int64_t>> RocksTextStore::RowsWith(
    const std::string& field, const std::string& value) const {
  std::vector<int64_t> rows;
  MOTET_RETURN_IF_ERROR(ForEach(
      FieldKey(field, value), [&](absl::string_view key, absl::string_view) {
        if (key.size() != 8) return Damaged(folder_, "a field without a row");
        rows.push_back(NumberAt(key, 0));
        return absl::OkStatus();
      }));
  return rows;
}

absl::StatusOr<std::vector<std::string>> RocksTextStore::Fields() const {
  std::vector<std::string> fields;
  std::unique_ptr<rocksdb::Iterator> it(
      db_->NewIterator(rocksdb::ReadOptions()));
  // From the first key of a field to behind its last.
  for (it->Seek("f"); it->Valid() && it->key().starts_with("f");) {
    const std::string key = it->key().ToString();
    const size_t end = key.find(kEnd);
    if (end == std::string::npos) {
      return Damaged(folder_, "a field without a name");
    }
    fields.push_back(key.substr(1, end - 1));
    it->Seek(key.substr(0, end) + '\x01');
  }
  MOTET_RETURN_IF_ERROR(FromRocks(it->status(), folder_));
  return fields;
}

absl::Status RocksTextStore::Verify() const {
  return FromRocks(db_->VerifyChecksum(), folder_);
}

}  // namespace

std::string TermKey(const std::string& term) {
  constexpr size_t kLongest = 64;
  return absl::StrCat("p",
                      term.size() <= kLongest
                          ? term
                          : "\x01" + proto::ToBytes(proto::Sha256(term)),
                      absl::string_view(&kEnd, 1));
}

std::string DocumentJson(const Document& document) {
  nlohmann::ordered_json json;
  json["_id"] = document.id;
  json["title"] = document.title;
  json["text"] = document.text;
  if (!document.metadata.empty()) json["metadata"] = document.metadata;
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

namespace {

// The number of the last write that a caller was told of.
absl::StatusOr<uint64_t> Acknowledged(const std::string& folder) {
  const std::string path = AcknowledgedPath(folder);
  if (!proto::Exists(path)) return 0;
  MOTET_ASSIGN_OR_RETURN(const std::string text, proto::ReadFile(path, 64));
  uint64_t number = 0;
  if (!absl::EndsWith(text, "\n") || !absl::SimpleAtoi(text, &number)) {
    return Damaged(path, "no number of a write");
  }
  return number;
}

// RocksDB ends a log where it is cut or altered, as a process does that dies
// while it writes; but what was acknowledged lies before that.
absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenWhole(
    const std::string& folder) {
  // A writer beside this reader may take a log away that was just listed.
  constexpr int kAttempts = 3;
  uint64_t told = 0, there = 0;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    // First, as that writer goes on.
    MOTET_ASSIGN_OR_RETURN(told, Acknowledged(folder));
    rocksdb::DB* opened = nullptr;
    MOTET_RETURN_IF_ERROR(FromRocks(
        rocksdb::DB::OpenForReadOnly(DatabaseOptions(false), folder, &opened),
        folder));
    std::unique_ptr<rocksdb::DB> db(opened);
    there = db->GetLatestSequenceNumber();
    if (told <= there) return db;
  }
  return Damaged(folder, absl::StrCat("writes up to ", there, " of ", told,
                                      " that were acknowledged"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TextStore>> TextStore::OpenForWriting(
    const std::string& folder) {
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder));
  // Before RocksDB ends a log for good.
  if (proto::Exists(folder + "/CURRENT")) {
    MOTET_RETURN_IF_ERROR(OpenWhole(folder).status());
  } else {
    MOTET_ASSIGN_OR_RETURN(const uint64_t told, Acknowledged(folder));
    if (told > 0) {
      return Damaged(folder, absl::StrCat("nothing of ", told,
                                          " writes that were acknowledged"));
    }
  }
  rocksdb::DB* db = nullptr;
  MOTET_RETURN_IF_ERROR(
      FromRocks(rocksdb::DB::Open(DatabaseOptions(true), folder, &db), folder));
  return std::make_unique<RocksTextStore>(folder, db);
}

absl::StatusOr<std::unique_ptr<TextStore>> TextStore::OpenForReading(
    const std::string& folder) {
  if (!proto::Exists(folder + "/CURRENT")) {
    return Error(absl::StatusCode::kNotFound, folder, "no text store", "one",
                 "the folder is no index, or part of it is missing");
  }
  MOTET_ASSIGN_OR_RETURN(auto db, OpenWhole(folder));
  return std::make_unique<RocksTextStore>(folder, db.release());
}

}  // namespace motet::retrieve
