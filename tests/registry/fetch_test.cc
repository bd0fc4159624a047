// SPDX-License-Identifier: Apache-2.0
// Fetching: resumed, damaged, from a registry that lies. The store behind the
// real service is made to misbehave.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/files.h"
#include "registry/client.h"
#include "registry/memory_store.h"
#include "registry/record.h"
#include "tests/registry/fixture.h"

namespace motet::registry {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kId[] = "alto.example/cantus@1.0.0";

// A memory store that breaks its word on demand.
class LyingStore : public MemoryStore {
 public:
  absl::StatusOr<std::string> GetChunk(const proto::Digest& sha256,
                                       Visible which) override {
    const auto damaged = flips.find(sha256);
    if (damaged != flips.end() && damaged->second-- > 0) {
      auto bytes = MemoryStore::GetChunk(sha256, which);
      (*bytes)[0] ^= 1;
      return bytes;
    }
    if (lost.count(sha256) > 0) return ChunkDamaged(sha256);
    return MemoryStore::GetChunk(sha256, which);
  }
  absl::StatusOr<v1::PackageRecord> Get(const std::string& id) override {
    auto record = MemoryStore::Get(id);
    if (record.ok() && change) change(&*record);
    return record;
  }
  std::map<proto::Digest, int> flips;  // how often to answer wrongly
  std::map<proto::Digest, bool> lost;
  std::function<void(v1::PackageRecord*)> change;
};

class FetchTest : public testing::Test {
 protected:
  void SetUp() override {
    store_ = std::make_shared<LyingStore>();
    server_ = Serve(federation_, store_);
    client_ = Connect(*server_, alto_);
    package_ = WritePackage(folder_ / "package", kId, alto_,
                            {{"weights.safetensors", Noise(5'500'000, 7)},
                             {"README.md", "# read me\n"}});
    const auto published = client_->Publish(package_, kId, {});
    ASSERT_TRUE(published.ok()) << published.status();
    target_ = folder_ / "fetched";
  }
  proto::Digest WeightsChunk(int index) {
    const auto record = store_->MemoryStore::Get(kId);
    return AsDigest(
        FindFile(*record, "weights.safetensors")->chunks(index).sha256());
  }
  // Fetches and counts the chunks that came.
  absl::Status Fetch(int* chunks, int stop_after = 1 << 30) {
    *chunks = 0;
    return client_
        ->Fetch(kId, target_,
                [&](uint64_t, uint64_t) { return ++*chunks < stop_after; })
        .status();
  }

  Federation federation_;
  TempFolder folder_;
  Member alto_ = federation_.Node("alto.example");
  std::shared_ptr<LyingStore> store_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Client> client_;
  std::string package_;
  std::string target_;
};

constexpr int kChunks = 9;  // weights 6, README, manifest, signature

TEST_F(FetchTest, InterruptedFetchShowsNothingAndResumes) {
  int chunks = 0;
  EXPECT_EQ(Fetch(&chunks, 4).code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(proto::Exists(target_));
  EXPECT_TRUE(proto::Exists(target_ + ".partial"));
  ASSERT_TRUE(Fetch(&chunks).ok());
  EXPECT_EQ(chunks, kChunks - 4);
  EXPECT_EQ(ReadFolder(target_), ReadFolder(package_));
  EXPECT_FALSE(proto::Exists(target_ + ".partial"));
  EXPECT_FALSE(proto::Exists(target_ + ".partial.lock"));
}

TEST_F(FetchTest, DamageInThePartialFolderIsFetchedAgain) {
  int chunks = 0;
  ASSERT_FALSE(Fetch(&chunks, kChunks).ok());
  const std::string path = target_ + ".partial/weights.safetensors";
  std::string weights = ReadFile(path);
  weights[1'500'000] ^= 1;
  WriteFile(path, weights + "and a tail");
  ASSERT_TRUE(Fetch(&chunks).ok());
  EXPECT_EQ(chunks, 1);
  EXPECT_EQ(ReadFolder(target_), ReadFolder(package_));
}

TEST_F(FetchTest, LeftoversOfAnotherFetchDoNotSlipIn) {
  WriteFile(target_ + ".partial/stray.txt", "stray");
  WriteFile(target_ + ".partial/weights.safetensors.d/stray.txt", "stray");
  int chunks = 0;
  const absl::Status status = Fetch(&chunks);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(ReadFolder(target_), ReadFolder(package_));
}

TEST_F(FetchTest, ExistingFolderIsLeftAlone) {
  WriteFile(target_ + "/mine.txt", "mine");
  int chunks = 0;
  EXPECT_EQ(Fetch(&chunks).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(chunks, 0);
  EXPECT_EQ(ReadFolder(target_).size(), 1u);
}

TEST_F(FetchTest, OneDamagedChunkIsFetchedAgainAlone) {
  store_->flips[WeightsChunk(2)] = 1;
  int chunks = 0;
  const absl::Status status = Fetch(&chunks);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(chunks, kChunks);
  EXPECT_EQ(store_->flips[WeightsChunk(2)], -1);  // asked twice, not more
  EXPECT_EQ(ReadFolder(target_), ReadFolder(package_));
}

TEST_F(FetchTest, ChunkThatStaysDamagedIsNamedAndTheRestKept) {
  store_->flips[WeightsChunk(2)] = 100;
  int chunks = 0;
  const absl::Status status = Fetch(&chunks);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("chunk 2 of weights.safetensors"),
                    HasSubstr(proto::Hex(WeightsChunk(2)))));
  EXPECT_FALSE(proto::Exists(target_));
  EXPECT_EQ(chunks, kChunks - 1);
  store_->flips.clear();
  ASSERT_TRUE(Fetch(&chunks).ok());
  EXPECT_EQ(chunks, 1);
}

TEST_F(FetchTest, ChunkLostAtTheRegistryIsNamedAndTheRestKept) {
  store_->lost[WeightsChunk(0)] = true;
  int chunks = 0;
  const absl::Status status = Fetch(&chunks);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("chunk 0 of weights.safetensors"));
  EXPECT_EQ(chunks, kChunks - 1);
}

TEST_F(FetchTest, RegistryCannotWriteOutsideTheFolder) {
  for (const char* path : {"../evil", "/evil", "a/../../evil", ".."}) {
    store_->change = [&](v1::PackageRecord* record) {
      record->mutable_files(0)->set_path(path);
    };
    int chunks = 0;
    EXPECT_EQ(Fetch(&chunks).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_FALSE(proto::Exists(folder_ / "evil"));
  }
}

TEST_F(FetchTest, RecordOfAnotherPackageIsNotTaken) {
  store_->change = [&](v1::PackageRecord* record) {
    record->set_id("alto.example/other@1.0.0");
  };
  int chunks = 0;
  EXPECT_EQ(Fetch(&chunks).code(), absl::StatusCode::kDataLoss);
}

TEST_F(FetchTest, WholeFileDigestIsChecked) {
  store_->change = [&](v1::PackageRecord* record) {
    v1::FileEntry* file = record->mutable_files(record->files_size() - 1);
    std::swap(*file->mutable_chunks(0), *file->mutable_chunks(1));
  };
  int chunks = 0;
  const absl::Status status = Fetch(&chunks);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_FALSE(proto::Exists(target_));
}

TEST_F(FetchTest, TwoFetchesIntoOneFolderDoNotMix) {
  const auto lock = proto::FileLock::Take(target_ + ".partial.lock", "a test");
  ASSERT_TRUE(lock.ok());
  int chunks = 0;
  EXPECT_EQ(Fetch(&chunks).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace motet::registry
