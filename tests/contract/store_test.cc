// SPDX-License-Identifier: Apache-2.0
// One suite for every store: what registry/store.h promises, whoever keeps it.
#include "registry/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "registry/memory_store.h"
#include "registry/record.h"
#include "registry/rocks_store.h"

namespace motet::registry {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct Kind {
  const char* name;
  bool durable;
};

Chunk MakeChunk(const std::string& bytes) { return *Chunk::Of(bytes); }

// A record of two files, each one chunk; `body` makes it differ.
v1::PackageRecord MakeRecord(const std::string& id, const std::string& body) {
  v1::PackageRecord record;
  record.set_id(id);
  record.set_publisher("spiffe://choir/owner/alto/node/one");
  record.set_published_at("2024-05-01T00:00:00Z");
  for (const auto& [path, bytes] :
       {std::pair<std::string, std::string>{"manifest.json", id + body},
        {"model.sig", "signature " + body}}) {
    v1::FileEntry* file = record.add_files();
    file->set_path(path);
    file->set_size_bytes(bytes.size());
    file->set_sha256(proto::ToBytes(proto::Sha256(bytes)));
    v1::ChunkRef* chunk = file->add_chunks();
    chunk->set_sha256(file->sha256());
    chunk->set_size_bytes(static_cast<uint32_t>(bytes.size()));
  }
  record.set_manifest_sha256(record.files(0).sha256());
  EXPECT_TRUE(CheckRecord(record).ok()) << CheckRecord(record);
  return record;
}

class StoreTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (!GetParam().durable) {
      store_ = std::make_unique<MemoryStore>();
      return;
    }
    folder_ = testing::TempDir() + "store_XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    Reopen();
  }
  void TearDown() override {
    store_.reset();
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  // What a store on disk must still know; nothing to do for one in memory.
  void Reopen() {
    if (!GetParam().durable) return;
    store_.reset();
    auto opened = OpenRocksStore(folder_ + "/data");
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }
  void PutAll(const std::string& id, const std::string& body) {
    ASSERT_TRUE(store_->PutChunk(MakeChunk(id + body)).ok());
    ASSERT_TRUE(store_->PutChunk(MakeChunk("signature " + body)).ok());
  }
  v1::PackageRecord Publish(const std::string& id, const std::string& body) {
    PutAll(id, body);
    const auto result = store_->Commit(MakeRecord(id, body));
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->record : v1::PackageRecord();
  }

  std::string folder_;
  std::unique_ptr<Store> store_;
};

TEST_P(StoreTest, ChunkIsFoundAndReadBack) {
  const Chunk chunk = MakeChunk(std::string("a\0b", 3));
  const Chunk other = MakeChunk("other");
  ASSERT_TRUE(store_->PutChunk(chunk).ok());
  ASSERT_TRUE(store_->PutChunk(chunk).ok());
  Reopen();
  EXPECT_THAT(*store_->HasChunks({chunk.sha256(), other.sha256()}),
              ElementsAre(true, false));
  EXPECT_EQ(*store_->GetChunk(chunk.sha256(), Visible::kAny), chunk.bytes());
  EXPECT_EQ(store_->GetChunk(other.sha256(), Visible::kAny).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_P(StoreTest, ChunkOfLargestSizeIsKeptAndLargerCannotBeMade) {
  const std::string largest(1 << 20, 'x');
  const Chunk chunk = MakeChunk(largest);
  ASSERT_TRUE(store_->PutChunk(chunk).ok());
  Reopen();
  EXPECT_EQ(*store_->GetChunk(chunk.sha256(), Visible::kAny), largest);
  EXPECT_FALSE(Chunk::Of(largest + "y").ok());
  EXPECT_FALSE(Chunk::Of("").ok());
}

TEST_P(StoreTest, ChunkIsInvisibleUntilItsPackageIsCommitted) {
  PutAll("alto/x@1.0.0", "body");
  const auto sha256 = MakeChunk("signature body").sha256();
  EXPECT_EQ(store_->GetChunk(sha256, Visible::kPublished).status().code(),
            absl::StatusCode::kNotFound);
  ASSERT_TRUE(store_->Commit(MakeRecord("alto/x@1.0.0", "body")).ok());
  EXPECT_TRUE(store_->GetChunk(sha256, Visible::kPublished).ok());
  // Putting it again, as another package's publish does, must not hide it.
  ASSERT_TRUE(store_->PutChunk(MakeChunk("signature body")).ok());
  Reopen();
  EXPECT_TRUE(store_->GetChunk(sha256, Visible::kPublished).ok());
}

TEST_P(StoreTest, CommitPublishesRecordIndexAndLogEntryTogether) {
  const v1::PackageRecord record = Publish("alto/x@1.0.0", "body");
  Reopen();
  EXPECT_EQ(record.log_index(), 0u);
  const auto by_id = store_->Get("alto/x@1.0.0");
  ASSERT_TRUE(by_id.ok()) << by_id.status();
  EXPECT_EQ(by_id->SerializeAsString(), record.SerializeAsString());
  const auto by_manifest =
      store_->GetByManifest(AsDigest(record.manifest_sha256()));
  ASSERT_TRUE(by_manifest.ok()) << by_manifest.status();
  EXPECT_EQ(by_manifest->SerializeAsString(), record.SerializeAsString());
  EXPECT_EQ(*store_->LogSize(), 1u);
  const auto entries = store_->LogEntries(0, 10);
  ASSERT_EQ(entries->size(), 1u);
  EXPECT_EQ((*entries)[0].package_id(), "alto/x@1.0.0");
  EXPECT_EQ((*entries)[0].action(), v1::LOG_PUBLISH);
  EXPECT_EQ((*entries)[0].manifest_sha256(), record.manifest_sha256());
  EXPECT_EQ((*entries)[0].actor(), record.publisher());
}

TEST_P(StoreTest, AbsentPackagesAreNotFound) {
  EXPECT_EQ(store_->Get("alto/x@1.0.0").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->GetByManifest(proto::Sha256("x")).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->Revoke("alto/x@1.0.0", "r", "a", "t").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(*store_->LogSize(), 0u);
  EXPECT_THAT(*store_->LogEntries(0, 10), IsEmpty());
}

TEST_P(StoreTest, CommitWithoutAChunkIsAbortedAndLeavesNothing) {
  ASSERT_TRUE(store_->PutChunk(MakeChunk("alto/x@1.0.0body")).ok());
  const auto result = store_->Commit(MakeRecord("alto/x@1.0.0", "body"));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kAborted);
  EXPECT_FALSE(store_->Get("alto/x@1.0.0").ok());
  EXPECT_EQ(*store_->LogSize(), 0u);
  EXPECT_THAT(store_->List("", "", 10)->records, IsEmpty());
}

TEST_P(StoreTest, SameContentAgainIsFoundAndNotLogged) {
  Publish("alto/x@1.0.0", "body");
  v1::PackageRecord again = MakeRecord("alto/x@1.0.0", "body");
  again.set_published_at("2030-01-01T00:00:00Z");
  const auto result = store_->Commit(again);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->already_published);
  EXPECT_EQ(result->record.published_at(), "2024-05-01T00:00:00Z");
  EXPECT_EQ(*store_->LogSize(), 1u);
}

TEST_P(StoreTest, OtherContentUnderAnIdIsRefused) {
  Publish("alto/x@1.0.0", "body");
  PutAll("alto/x@1.0.0", "another");
  const auto result = store_->Commit(MakeRecord("alto/x@1.0.0", "another"));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(result.status().message()),
              HasSubstr("publish under a new version"));
  EXPECT_EQ(*store_->LogSize(), 1u);
}

TEST_P(StoreTest, OneManifestCannotHaveTwoIds) {
  const v1::PackageRecord first = Publish("alto/x@1.0.0", "body");
  v1::PackageRecord second = first;
  second.set_id("bass/x@1.0.0");
  EXPECT_EQ(store_->Commit(second).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(store_->GetByManifest(AsDigest(first.manifest_sha256()))->id(),
            "alto/x@1.0.0");
}

TEST_P(StoreTest, RevokedPackageStaysReadableAndCannotBePublishedAgain) {
  Publish("alto/x@1.0.0", "body");
  const auto entry =
      store_->Revoke("alto/x@1.0.0", "leaks names", "spiffe://who", "now");
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(entry->index(), 1u);
  EXPECT_EQ(entry->action(), v1::LOG_REVOKE);
  Reopen();
  const auto record = store_->Get("alto/x@1.0.0");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_TRUE(record->revoked());
  EXPECT_EQ(record->revoked_reason(), "leaks names");
  EXPECT_EQ(record->revoked_log_index(), 1u);
  EXPECT_EQ(record->files_size(), 2);
  EXPECT_EQ(record->files(0).chunks_size(), 1);
  EXPECT_EQ(store_->Commit(MakeRecord("alto/x@1.0.0", "body")).status().code(),
            absl::StatusCode::kFailedPrecondition);
  // Again: the first entry, no second one.
  EXPECT_EQ(store_->Revoke("alto/x@1.0.0", "other", "b", "c")->reason(),
            "leaks names");
  EXPECT_EQ(*store_->LogSize(), 2u);
}

TEST_P(StoreTest, LogIsNumberedAcrossPublishesAndRevocations) {
  for (int i = 0; i < 5; ++i) {
    Publish(absl::StrCat("alto/x@1.0.", i), "body");
    if (i % 2 == 0) Reopen();
  }
  ASSERT_TRUE(store_->Revoke("alto/x@1.0.2", "r", "a", "t").ok());
  Reopen();
  EXPECT_EQ(*store_->LogSize(), 6u);
  const auto entries = store_->LogEntries(0, 100);
  ASSERT_EQ(entries->size(), 6u);
  for (uint64_t i = 0; i < 6; ++i) EXPECT_EQ((*entries)[i].index(), i);
  const auto middle = store_->LogEntries(2, 3);
  ASSERT_EQ(middle->size(), 3u);
  EXPECT_EQ((*middle)[0].package_id(), "alto/x@1.0.2");
  EXPECT_THAT(*store_->LogEntries(6, 3), IsEmpty());
  EXPECT_THAT(*store_->LogEntries(~uint64_t{0}, 3), IsEmpty());
}

std::vector<std::string> Ids(const RecordPage& page) {
  std::vector<std::string> ids;
  for (const auto& record : page.records) ids.push_back(record.id());
  return ids;
}

TEST_P(StoreTest, ListIsSortedPagedAndByPrefix) {
  for (const char* id : {"bass/a@1.0.0", "alto/b@1.0.0", "alto/a@1.0.0",
                         "alto/a@1.0.1", "alto-two/a@1.0.0"}) {
    Publish(id, "body");
  }
  EXPECT_THAT(Ids(*store_->List("", "", 100)),
              ElementsAre("alto-two/a@1.0.0", "alto/a@1.0.0", "alto/a@1.0.1",
                          "alto/b@1.0.0", "bass/a@1.0.0"));
  EXPECT_THAT(Ids(*store_->List("alto/", "", 100)),
              ElementsAre("alto/a@1.0.0", "alto/a@1.0.1", "alto/b@1.0.0"));
  EXPECT_THAT(Ids(*store_->List("none", "", 100)), IsEmpty());
  const RecordPage first = *store_->List("alto/", "", 2);
  EXPECT_THAT(Ids(first), ElementsAre("alto/a@1.0.0", "alto/a@1.0.1"));
  EXPECT_EQ(first.next, "alto/a@1.0.1");
  const RecordPage second = *store_->List("alto/", first.next, 2);
  EXPECT_THAT(Ids(second), ElementsAre("alto/b@1.0.0"));
  EXPECT_EQ(second.next, "");
  // `after` need not exist, and may lie before or behind the prefix.
  EXPECT_THAT(Ids(*store_->List("alto/", "alto/a@1.0.00", 100)),
              ElementsAre("alto/a@1.0.1", "alto/b@1.0.0"));
  EXPECT_EQ(Ids(*store_->List("alto/", "a", 100)).size(), 3u);
  EXPECT_THAT(Ids(*store_->List("alto/", "b", 100)), IsEmpty());
  for (const auto& record : first.records) {
    ASSERT_EQ(record.files_size(), 2);
    EXPECT_EQ(record.files(0).chunks_size(), 0);
  }
}

TEST_P(StoreTest, CollectTakesUnfinishedPublishesOnly) {
  Publish("alto/x@1.0.0", "body");
  const Chunk loose = MakeChunk("never committed");
  ASSERT_TRUE(store_->PutChunk(loose).ok());
  EXPECT_EQ(*store_->Collect(absl::Now() - absl::Hours(1)), 0);
  EXPECT_EQ(*store_->Collect(absl::Now() + absl::Hours(1)), 1);
  Reopen();
  EXPECT_THAT(*store_->HasChunks({loose.sha256()}), ElementsAre(false));
  const auto record = store_->Get("alto/x@1.0.0");
  ASSERT_TRUE(record.ok());
  for (const auto& digest : DistinctChunks(*record)) {
    EXPECT_TRUE(store_->GetChunk(digest, Visible::kPublished).ok());
  }
}

TEST_P(StoreTest, AskingForAChunkKeepsItFromCollect) {
  const Chunk chunk = MakeChunk("resumed later");
  ASSERT_TRUE(store_->PutChunk(chunk).ok());
  const absl::Time before = absl::Now();
  EXPECT_THAT(*store_->HasChunks({chunk.sha256()}), ElementsAre(true));
  EXPECT_EQ(*store_->Collect(before), 0);
}

// Publishers, readers and the collector at once: every acknowledged package is
// whole, numbers have no holes. Losing a chunk to the collector is Aborted, and
// sending it again helps.
TEST_P(StoreTest, ConcurrentPublishesStayWhole) {
  constexpr int kThreads = 4;
  constexpr int kEach = 25;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < kEach; ++i) {
        const std::string id = absl::StrCat("alto/p", t, "@1.0.", i);
        absl::Status status;
        do {
          PutAll(id, absl::StrCat("shared", i % 3));
          status = store_->Commit(MakeRecord(id, absl::StrCat("shared", i % 3)))
                       .status();
        } while (absl::IsAborted(status));
        ASSERT_TRUE(status.ok()) << status;
      }
    });
  }
  threads.emplace_back([this] {
    for (int i = 0; i < 40; ++i) {
      ASSERT_TRUE(store_->Collect(absl::Now()).ok());
      const RecordPage page = *store_->List("", "", 1000);
      for (const auto& listed : page.records) {
        ASSERT_TRUE(store_->Get(listed.id()).ok());
      }
    }
  });
  for (std::thread& thread : threads) thread.join();
  Reopen();
  EXPECT_EQ(*store_->LogSize(), uint64_t{kThreads * kEach});
  std::set<std::string> logged;
  const std::vector<v1::LogEntry> log = *store_->LogEntries(0, 1000);
  for (const auto& entry : log) {
    logged.insert(entry.package_id());
    const auto record = store_->Get(entry.package_id());
    ASSERT_TRUE(record.ok()) << record.status();
    EXPECT_EQ(record->log_index(), entry.index());
    for (const auto& digest : DistinctChunks(*record)) {
      EXPECT_TRUE(store_->GetChunk(digest, Visible::kPublished).ok());
    }
  }
  EXPECT_EQ(logged.size(), size_t{kThreads * kEach});
}

INSTANTIATE_TEST_SUITE_P(Stores, StoreTest,
                         testing::Values(Kind{"memory", false},
                                         Kind{"rocks", true}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace motet::registry
