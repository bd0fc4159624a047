// SPDX-License-Identifier: Apache-2.0
// Chunks are written to RocksDB's log unsynced as they arrive; a commit is one
// synced batch. Syncing makes everything before it in the log durable too, so
// one fsync per publish makes chunks, record, indexes and log entry durable,
// and no crash can leave the record without its chunks.
#include "registry/rocks_store.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>
#include <spdlog/spdlog.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "proto/error.h"
#include "proto/files.h"
#include "registry/layout.h"
#include "registry/record.h"

namespace motet::registry {
namespace {

using proto::Digest;
using proto::Error;
using rocksdb::Slice;

constexpr char kLockFile[] = "/lock";
constexpr char kDatabase[] = "/db";

// Column families, in the order of their handles.
enum Family { kDefault, kRecords, kChunks, kIndexes, kLog, kUsage, kFamilies };
constexpr const char* kFamilyNames[kFamilies] = {
    "default", "manifests", "chunks", "indexes", "log", "usage"};

std::string PendingNow() {
  return BigEndianBytes(static_cast<uint64_t>(absl::ToUnixMicros(absl::Now())));
}

absl::Status FromRocks(const rocksdb::Status& status,
                       const std::string& folder) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = status.ToString();
  const std::string got = absl::StrCat("\"", Printable(text), "\"");
  if (status.IsNoSpace() || status.subcode() == rocksdb::Status::kSpaceLimit ||
      absl::StrContains(text, "File too large") ||
      absl::StrContains(text, "quota exceeded")) {
    return Error(absl::StatusCode::kResourceExhausted, "registry store", got,
                 absl::StrCat("free space on the disk of ", folder),
                 "free some and try again; nothing was lost");
  }
  if (status.IsCorruption()) {
    return Error(absl::StatusCode::kDataLoss, "registry store", got,
                 absl::StrCat("an undamaged database in ", folder),
                 "check the disk, then restore the folder from a backup");
  }
  return Error(absl::StatusCode::kInternal, "registry store", got,
               absl::StrCat("a working database in ", folder),
               "see the disk's and the registry's logs");
}

absl::Status Damaged(const std::string& folder, absl::string_view what) {
  return FromRocks(rocksdb::Status::Corruption(Slice(what.data(), what.size())),
                   folder);
}

class RocksStore : public Store {
 public:
  RocksStore(std::string folder, const RocksOptions& options,
             proto::FileLock lock)
      : folder_(std::move(folder)), options_(options), lock_(std::move(lock)) {}
  ~RocksStore() override {
    absl::MutexLock lock(&mutex_);
    Close();
  }
  absl::Status Open() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return OpenLocked();
  }

  absl::Status PutChunk(const Chunk& chunk) override;
  absl::StatusOr<std::vector<bool>> HasChunks(
      const std::vector<Digest>& sha256) override;
  absl::StatusOr<std::string> GetChunk(const Digest& sha256,
                                       Visible which) override;
  absl::StatusOr<CommitResult> Commit(const v1::PackageRecord& record) override;
  absl::StatusOr<v1::PackageRecord> Get(const std::string& id) override;
  absl::StatusOr<v1::PackageRecord> GetByManifest(
      const Digest& manifest_sha256) override;
  absl::StatusOr<RecordPage> List(const std::string& prefix,
                                  const std::string& after, int limit) override;
  absl::StatusOr<v1::LogEntry> Revoke(const std::string& id,
                                      const std::string& reason,
                                      const std::string& actor,
                                      const std::string& time) override;
  absl::StatusOr<uint64_t> LogSize() override;
  absl::StatusOr<std::vector<v1::LogEntry>> LogEntries(uint64_t from,
                                                       int limit) override;
  absl::StatusOr<int64_t> Collect(absl::Time older_than) override;

 private:
  absl::Status OpenLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Close() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status EnsureWritable() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status CheckSpace() const;
  absl::Status CheckOpen() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  // `value` of the key, or NotFound with an empty message.
  absl::Status Read(Family family, const std::string& key, std::string* value)
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::Status Write(rocksdb::WriteBatch* batch, bool sync)
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::vector<std::string>> Presences(
      const std::vector<Digest>& sha256) ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<v1::PackageRecord> ReadRecord(const std::string& id)
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<v1::PackageRecord> ReadSummary(const std::string& id)
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<v1::LogEntry> ReadEntry(uint64_t index)
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool IsDamaged(const Digest& sha256) const {
    absl::MutexLock lock(&damaged_mutex_);
    return damaged_.count(sha256) > 0;
  }

  const std::string folder_;
  const RocksOptions options_;
  const proto::FileLock lock_;

  // Exclusive for what decides by looking and then writes (Commit, Revoke,
  // Collect) and for opening; shared for everything else, chunk writes
  // included: those decide about their own key alone, and two writers of one
  // key write the same bytes.
  absl::Mutex mutex_;
  std::unique_ptr<rocksdb::DB> db_ ABSL_GUARDED_BY(mutex_);
  std::vector<rocksdb::ColumnFamilyHandle*> families_ ABSL_GUARDED_BY(mutex_);
  uint64_t log_size_ ABSL_GUARDED_BY(mutex_) = 0;
  // A write failed: RocksDB refuses further ones until it is opened again.
  std::atomic<bool> broken_{false};

  mutable absl::Mutex damaged_mutex_;
  std::set<Digest> damaged_ ABSL_GUARDED_BY(damaged_mutex_);
};

// RocksDB's own remarks, from warnings up, go to our log. Not to its usual
// file: in Debian's build (7.8.3, assertions on) a second line to a log file
// on a full disk aborts the process.
class RemarksToLog : public rocksdb::Logger {
 public:
  RemarksToLog() : Logger(rocksdb::InfoLogLevel::WARN_LEVEL) {}
  using rocksdb::Logger::Logv;
  void Logv(const char* format, va_list arguments) override {
    char line[512];
    vsnprintf(line, sizeof line, format, arguments);
    spdlog::warn("rocksdb: {}", Printable(line));
  }
};

rocksdb::DBOptions DatabaseOptions() {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.max_open_files = 512;
  options.max_total_wal_size = uint64_t{256} << 20;
  options.wal_bytes_per_sync = uint64_t{4} << 20;
  options.bytes_per_sync = uint64_t{4} << 20;
  options.info_log = std::make_shared<RemarksToLog>();
  // After a failed write we open again ourselves: then what is visible is
  // what is on disk, by construction.
  options.max_bgerror_resume_count = 0;
  return options;
}

std::vector<rocksdb::ColumnFamilyDescriptor> FamilyOptions() {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(size_t{32} << 20);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (int i = 0; i < kFamilies; ++i) {
    rocksdb::ColumnFamilyOptions options;
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    options.compression = rocksdb::kNoCompression;
    options.write_buffer_size = size_t{8} << 20;
    if (i == kChunks) {
      // Weights do not compress, and values of up to 1 MiB must not be moved
      // by every compaction: they lie in blob files of their own.
      options.write_buffer_size = size_t{64} << 20;
      options.enable_blob_files = true;
      options.min_blob_size = 1 << 10;
      options.blob_file_size = uint64_t{256} << 20;
      options.enable_blob_garbage_collection = true;
    }
    families.emplace_back(kFamilyNames[i], options);
  }
  return families;
}

absl::Status RocksStore::OpenLocked() {
  families_.clear();
  rocksdb::DB* db = nullptr;
  MOTET_RETURN_IF_ERROR(
      FromRocks(rocksdb::DB::Open(DatabaseOptions(), folder_ + kDatabase,
                                  FamilyOptions(), &families_, &db),
                folder_));
  db_.reset(db);
  std::unique_ptr<rocksdb::Iterator> it(
      db_->NewIterator(rocksdb::ReadOptions(), families_[kLog]));
  it->SeekForPrev(LogKey(~uint64_t{0}));
  log_size_ = 0;
  if (it->Valid() && it->key().starts_with("e")) {
    log_size_ = BigEndian(it->key().ToString().substr(1)) + 1;
  }
  return FromRocks(it->status(), folder_);
}

void RocksStore::Close() {
  if (db_ == nullptr) return;
  for (rocksdb::ColumnFamilyHandle* family : families_) {
    db_->DestroyColumnFamilyHandle(family);
  }
  families_.clear();
  db_.reset();
}

absl::Status RocksStore::CheckSpace() const {
  struct statvfs fs;
  if (statvfs(folder_.c_str(), &fs) != 0) return absl::OkStatus();
  const uint64_t free = static_cast<uint64_t>(fs.f_bavail) * fs.f_frsize;
  if (free >= static_cast<uint64_t>(options_.reserve_bytes)) {
    return absl::OkStatus();
  }
  return Error(absl::StatusCode::kResourceExhausted, "registry store",
               absl::StrCat(free, " free bytes on the disk of ", folder_),
               absl::StrCat("at least ", options_.reserve_bytes),
               "free some and try again; nothing was lost");
}

absl::Status RocksStore::EnsureWritable() {
  if (!broken_) return absl::OkStatus();
  // Reads go on with the old database until there is hope for a new one.
  MOTET_RETURN_IF_ERROR(CheckSpace());
  absl::MutexLock lock(&mutex_);
  if (!broken_) return absl::OkStatus();
  Close();
  MOTET_RETURN_IF_ERROR(OpenLocked());
  broken_ = false;
  return absl::OkStatus();
}

absl::Status RocksStore::CheckOpen() const {
  if (db_ != nullptr) return absl::OkStatus();
  return Error(absl::StatusCode::kUnavailable, "registry store",
               absl::StrCat("no database: opening ", folder_,
                            " again failed after an error of the disk"),
               "an open one", "repair or free the disk and try again");
}

absl::Status RocksStore::Read(Family family, const std::string& key,
                              std::string* value) {
  MOTET_RETURN_IF_ERROR(CheckOpen());
  rocksdb::ReadOptions options;
  // Blob reads are verified by SHA-256, which is stronger and, in Debian's
  // build, several times faster than RocksDB's checksum.
  options.verify_checksums = family != kChunks;
  const rocksdb::Status status =
      db_->Get(options, families_[family], key, value);
  if (status.IsNotFound()) return absl::NotFoundError("");
  return FromRocks(status, folder_);
}

absl::Status RocksStore::Write(rocksdb::WriteBatch* batch, bool sync) {
  MOTET_RETURN_IF_ERROR(CheckOpen());
  rocksdb::WriteOptions options;
  options.sync = sync;
  const rocksdb::Status status = db_->Write(options, batch);
  if (!status.ok()) broken_ = true;
  return FromRocks(status, folder_);
}

// One presence value per digest; empty where there is none.
absl::StatusOr<std::vector<std::string>> RocksStore::Presences(
    const std::vector<Digest>& sha256) {
  std::vector<std::string> values(sha256.size());
  for (size_t i = 0; i < sha256.size(); ++i) {
    absl::Status status = Read(kIndexes, PresenceKey(sha256[i]), &values[i]);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
    if (!status.ok()) values[i].clear();
  }
  return values;
}

absl::Status RocksStore::PutChunk(const Chunk& chunk) {
  MOTET_RETURN_IF_ERROR(EnsureWritable());
  MOTET_RETURN_IF_ERROR(CheckSpace());
  absl::ReaderMutexLock lock(&mutex_);
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> known,
                         Presences({chunk.sha256()}));
  const bool published =
      !known[0].empty() && BigEndian(known[0]) == kPublishedMark;
  const bool damaged = IsDamaged(chunk.sha256());
  if (published && !damaged) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  if (known[0].empty() || damaged) {
    batch.Put(families_[kChunks], proto::ToBytes(chunk.sha256()),
              chunk.bytes());
  }
  if (!published) {
    batch.Put(families_[kIndexes], PresenceKey(chunk.sha256()), PendingNow());
  }
  MOTET_RETURN_IF_ERROR(Write(&batch, /*sync=*/false));
  if (damaged) {
    absl::MutexLock damaged_lock(&damaged_mutex_);
    damaged_.erase(chunk.sha256());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<bool>> RocksStore::HasChunks(
    const std::vector<Digest>& sha256) {
  MOTET_RETURN_IF_ERROR(EnsureWritable());
  absl::ReaderMutexLock lock(&mutex_);
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> known,
                         Presences(sha256));
  std::vector<bool> has(sha256.size());
  rocksdb::WriteBatch touched;
  const std::string now = PendingNow();
  for (size_t i = 0; i < sha256.size(); ++i) {
    has[i] = !known[i].empty() && !IsDamaged(sha256[i]);
    if (has[i] && BigEndian(known[i]) != kPublishedMark) {
      touched.Put(families_[kIndexes], PresenceKey(sha256[i]), now);
    }
  }
  if (touched.Count() > 0) {
    MOTET_RETURN_IF_ERROR(Write(&touched, /*sync=*/false));
  }
  return has;
}

absl::StatusOr<std::string> RocksStore::GetChunk(const Digest& sha256,
                                                 Visible which) {
  absl::ReaderMutexLock lock(&mutex_);
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> known,
                         Presences({sha256}));
  if (known[0].empty() ||
      (which == Visible::kPublished && BigEndian(known[0]) != kPublishedMark)) {
    return ChunkNotFound(sha256);
  }
  std::string bytes;
  const absl::Status status = Read(kChunks, proto::ToBytes(sha256), &bytes);
  if (status.ok() && proto::Sha256(bytes) == sha256) return bytes;
  if (!status.ok() && !absl::IsNotFound(status) && !absl::IsDataLoss(status)) {
    return status;
  }
  absl::MutexLock damaged_lock(&damaged_mutex_);
  damaged_.insert(sha256);
  return ChunkDamaged(sha256);
}

absl::StatusOr<CommitResult> RocksStore::Commit(
    const v1::PackageRecord& record) {
  MOTET_RETURN_IF_ERROR(EnsureWritable());
  absl::MutexLock lock(&mutex_);
  const absl::StatusOr<v1::PackageRecord> known = ReadRecord(record.id());
  if (known.ok()) return CommitAgain(*known, record);
  if (!absl::IsNotFound(known.status())) return known.status();

  const Digest manifest = AsDigest(record.manifest_sha256());
  std::string other;
  const absl::Status taken = Read(kIndexes, ManifestKey(manifest), &other);
  if (taken.ok()) return ManifestTaken(record, other);
  if (!absl::IsNotFound(taken)) return taken;

  const std::vector<Digest> digests = DistinctChunks(record);
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> presences,
                         Presences(digests));
  rocksdb::WriteBatch batch;
  for (size_t i = 0; i < digests.size(); ++i) {
    if (presences[i].empty() || IsDamaged(digests[i])) {
      return ChunkMissingAtCommit(record.id(), digests[i]);
    }
    if (BigEndian(presences[i]) != kPublishedMark) {
      batch.Put(families_[kIndexes], PresenceKey(digests[i]),
                BigEndianBytes(kPublishedMark));
    }
  }
  v1::PackageRecord stored = record;
  stored.set_log_index(log_size_);
  v1::PackageRecord files;
  *files.mutable_files() = stored.files();
  batch.Put(families_[kRecords], SummaryKey(stored.id()),
            WithoutChunks(stored).SerializeAsString());
  batch.Put(families_[kRecords], FilesKey(stored.id()),
            files.SerializeAsString());
  batch.Put(families_[kIndexes], ManifestKey(manifest), stored.id());
  batch.Put(families_[kLog], LogKey(log_size_),
            PublishEntry(stored).SerializeAsString());
  MOTET_RETURN_IF_ERROR(Write(&batch, /*sync=*/true));
  ++log_size_;
  return CommitResult{std::move(stored), false};
}

absl::StatusOr<v1::PackageRecord> RocksStore::ReadSummary(
    const std::string& id) {
  std::string bytes;
  const absl::Status status = Read(kRecords, SummaryKey(id), &bytes);
  if (absl::IsNotFound(status)) return PackageNotFound(Printable(id));
  MOTET_RETURN_IF_ERROR(status);
  v1::PackageRecord record;
  if (!record.ParseFromString(bytes)) {
    return Damaged(folder_, absl::StrCat("unreadable record of ", id));
  }
  return record;
}

absl::StatusOr<v1::PackageRecord> RocksStore::ReadRecord(
    const std::string& id) {
  MOTET_ASSIGN_OR_RETURN(v1::PackageRecord record, ReadSummary(id));
  std::string bytes;
  v1::PackageRecord files;
  const absl::Status status = Read(kRecords, FilesKey(id), &bytes);
  if (absl::IsNotFound(status) ||
      (status.ok() && !files.ParseFromString(bytes))) {
    return Damaged(folder_, absl::StrCat("unreadable files of ", id));
  }
  MOTET_RETURN_IF_ERROR(status);
  record.mutable_files()->Swap(files.mutable_files());
  return record;
}

absl::StatusOr<v1::PackageRecord> RocksStore::Get(const std::string& id) {
  absl::ReaderMutexLock lock(&mutex_);
  return ReadRecord(id);
}

absl::StatusOr<v1::PackageRecord> RocksStore::GetByManifest(
    const Digest& manifest_sha256) {
  absl::ReaderMutexLock lock(&mutex_);
  std::string id;
  const absl::Status status = Read(kIndexes, ManifestKey(manifest_sha256), &id);
  if (absl::IsNotFound(status)) {
    return PackageNotFound(
        absl::StrCat("manifest ", proto::Hex(manifest_sha256)));
  }
  MOTET_RETURN_IF_ERROR(status);
  return ReadRecord(id);
}

absl::StatusOr<RecordPage> RocksStore::List(const std::string& prefix,
                                            const std::string& after,
                                            int limit) {
  absl::ReaderMutexLock lock(&mutex_);
  MOTET_RETURN_IF_ERROR(CheckOpen());
  std::unique_ptr<rocksdb::Iterator> it(
      db_->NewIterator(rocksdb::ReadOptions(), families_[kRecords]));
  const std::string first = SummaryKey(prefix);
  const std::string last = SummaryKey(after);
  it->Seek(std::max(first, last));
  if (!after.empty() && it->Valid() && it->key() == last) it->Next();
  RecordPage page;
  size_t bytes = 0;
  for (; it->Valid() && it->key().starts_with(first); it->Next()) {
    if (static_cast<int>(page.records.size()) == limit ||
        bytes >= kListPageBytes) {
      if (!page.records.empty()) page.next = page.records.back().id();
      break;
    }
    bytes += it->value().size();
    v1::PackageRecord& record = page.records.emplace_back();
    if (!record.ParseFromArray(it->value().data(),
                               static_cast<int>(it->value().size()))) {
      return Damaged(folder_, absl::StrCat("unreadable record at ",
                                           it->key().ToString(true)));
    }
  }
  MOTET_RETURN_IF_ERROR(FromRocks(it->status(), folder_));
  return page;
}

absl::StatusOr<v1::LogEntry> RocksStore::ReadEntry(uint64_t index) {
  std::string bytes;
  const absl::Status status = Read(kLog, LogKey(index), &bytes);
  v1::LogEntry entry;
  if (absl::IsNotFound(status) ||
      (status.ok() && !entry.ParseFromString(bytes))) {
    return Damaged(folder_, absl::StrCat("unreadable log entry ", index));
  }
  MOTET_RETURN_IF_ERROR(status);
  return entry;
}

absl::StatusOr<v1::LogEntry> RocksStore::Revoke(const std::string& id,
                                                const std::string& reason,
                                                const std::string& actor,
                                                const std::string& time) {
  MOTET_RETURN_IF_ERROR(EnsureWritable());
  absl::MutexLock lock(&mutex_);
  MOTET_ASSIGN_OR_RETURN(v1::PackageRecord record, ReadSummary(id));
  if (record.revoked()) return ReadEntry(record.revoked_log_index());
  record.set_revoked(true);
  record.set_revoked_reason(reason);
  record.set_revoked_log_index(log_size_);
  const v1::LogEntry entry = RevokeEntry(record, actor, time);
  rocksdb::WriteBatch batch;
  batch.Put(families_[kRecords], SummaryKey(id), record.SerializeAsString());
  batch.Put(families_[kLog], LogKey(log_size_), entry.SerializeAsString());
  MOTET_RETURN_IF_ERROR(Write(&batch, /*sync=*/true));
  ++log_size_;
  return entry;
}

absl::StatusOr<uint64_t> RocksStore::LogSize() {
  absl::ReaderMutexLock lock(&mutex_);
  return log_size_;
}

absl::StatusOr<std::vector<v1::LogEntry>> RocksStore::LogEntries(uint64_t from,
                                                                 int limit) {
  absl::ReaderMutexLock lock(&mutex_);
  std::vector<v1::LogEntry> entries;
  for (uint64_t i = from;
       i < log_size_ && static_cast<int>(entries.size()) < limit; ++i) {
    MOTET_ASSIGN_OR_RETURN(entries.emplace_back(), ReadEntry(i));
  }
  return entries;
}

absl::StatusOr<int64_t> RocksStore::Collect(absl::Time older_than) {
  MOTET_RETURN_IF_ERROR(EnsureWritable());
  absl::MutexLock lock(&mutex_);
  MOTET_RETURN_IF_ERROR(CheckOpen());
  std::unique_ptr<rocksdb::Iterator> it(
      db_->NewIterator(rocksdb::ReadOptions(), families_[kIndexes]));
  int64_t collected = 0;
  rocksdb::WriteBatch batch;
  for (it->Seek("c"); it->Valid() && it->key().starts_with("c"); it->Next()) {
    const uint64_t mark = BigEndian(it->value().ToString());
    if (mark == kPublishedMark ||
        absl::FromUnixMicros(static_cast<int64_t>(mark)) >= older_than) {
      continue;
    }
    Slice sha256 = it->key();
    sha256.remove_prefix(1);
    batch.Delete(families_[kChunks], sha256);
    batch.Delete(families_[kIndexes], it->key());
    ++collected;
  }
  MOTET_RETURN_IF_ERROR(FromRocks(it->status(), folder_));
  if (collected > 0) MOTET_RETURN_IF_ERROR(Write(&batch, /*sync=*/false));
  return collected;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenRocksStore(
    const std::string& folder, const RocksOptions& options) {
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder, 0700));
  MOTET_ASSIGN_OR_RETURN(
      proto::FileLock lock,
      proto::FileLock::Take(folder + kLockFile, "a registry's data folder"));
  MOTET_RETURN_IF_ERROR(CheckLayout(folder));
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder + kDatabase, 0700));
  auto store = std::make_unique<RocksStore>(folder, options, std::move(lock));
  MOTET_RETURN_IF_ERROR(store->Open());
  return store;
}

}  // namespace motet::registry
