// SPDX-License-Identifier: Apache-2.0
// What only a store on disk can go through: being killed, bit flips, a full
// disk, a folder of another layout. (tests/contract holds the rest.)
#include "registry/rocks_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/files.h"
#include "registry/record.h"
#include "tests/registry/fixture.h"

extern char** environ;

namespace motet::registry {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

// A package of a manifest, a signature and a few chunks of weights, all from
// its number.
struct Sample {
  v1::PackageRecord record;
  std::vector<Chunk> chunks;
};

Sample MakeSample(int number) {
  Sample sample;
  sample.record.set_id(absl::StrCat("alto.example/p@1.0.", number));
  sample.record.set_publisher("spiffe://choir/owner/alto.example/node/one");
  const std::vector<std::pair<std::string, int>> files = {
      {"manifest.json", 1}, {"model.sig", 1}, {"weights.safetensors", 3}};
  for (const auto& [path, count] : files) {
    v1::FileEntry* file = sample.record.add_files();
    file->set_path(path);
    proto::Sha256Stream whole;
    for (int c = 0; c < count; ++c) {
      sample.chunks.push_back(*Chunk::Of(
          absl::StrCat(path, " ", number, " ", c, " ",
                       Noise(20'000, static_cast<uint32_t>(number * 8 + c)))));
      const Chunk& chunk = sample.chunks.back();
      whole.Update(chunk.bytes());
      v1::ChunkRef* ref = file->add_chunks();
      ref->set_sha256(proto::ToBytes(chunk.sha256()));
      ref->set_size_bytes(static_cast<uint32_t>(chunk.bytes().size()));
      file->set_size_bytes(file->size_bytes() + chunk.bytes().size());
    }
    file->set_sha256(proto::ToBytes(whole.Finish()));
  }
  sample.record.set_manifest_sha256(sample.record.files(0).sha256());
  return sample;
}

absl::Status Publish(Store* store, const Sample& sample) {
  for (const Chunk& chunk : sample.chunks) {
    if (absl::Status status = store->PutChunk(chunk); !status.ok()) {
      return status;
    }
  }
  return store->Commit(sample.record).status();
}

std::unique_ptr<Store> Open(const std::string& folder) {
  auto store = OpenRocksStore(folder);
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

// Runs in a process of its own, until it is killed: publishes one package
// after the other and reports each that was acknowledged.
int PublishUntilKilled(const std::string& folder, int first) {
  auto store = OpenRocksStore(folder);
  if (!store.ok()) return 1;
  for (int number = first;; ++number) {
    if (!Publish(store->get(), MakeSample(number)).ok()) return 1;
    const std::string line = absl::StrCat(number, "\n");
    if (write(STDOUT_FILENO, line.data(), line.size()) < 0) return 1;
  }
}

struct Child {
  pid_t pid = -1;
  FILE* output = nullptr;
};

// A fresh process, not a fork: a fork would inherit RocksDB's thread pools
// without their threads.
Child SpawnPublisher(const std::string& folder, int first) {
  int pipe_ends[2];
  EXPECT_EQ(pipe(pipe_ends), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, pipe_ends[0]);
  std::string program = "/proc/self/exe";
  std::string mode = "--publish-until-killed";
  std::string start = absl::StrCat(first);
  std::string where = folder;
  char* argv[] = {program.data(), mode.data(), where.data(), start.data(),
                  nullptr};
  Child child;
  EXPECT_EQ(posix_spawn(&child.pid, program.c_str(), &actions, nullptr, argv,
                        environ),
            0);
  posix_spawn_file_actions_destroy(&actions);
  close(pipe_ends[1]);
  child.output = fdopen(pipe_ends[0], "r");
  return child;
}

TEST(RocksStoreKillTest, AcknowledgedIsReadableAndNothingHalfVisible) {
  TempFolder folder;
  const std::string data = folder / "data";
  std::set<int> acknowledged;
  int next = 0;
  for (int round = 0; round < 6; ++round) {
    Child child = SpawnPublisher(data, next);
    // Let it acknowledge some, more each round, then kill it wherever it is.
    char line[32];
    for (int i = 0; i < 3 + 7 * round; ++i) {
      ASSERT_NE(fgets(line, sizeof line, child.output), nullptr);
      acknowledged.insert(atoi(line));
    }
    ASSERT_EQ(kill(child.pid, SIGKILL), 0);
    // What it had written to the pipe before it died counts as well.
    while (fgets(line, sizeof line, child.output) != nullptr) {
      if (strchr(line, '\n') != nullptr) acknowledged.insert(atoi(line));
    }
    fclose(child.output);
    int status = 0;
    ASSERT_EQ(waitpid(child.pid, &status, 0), child.pid);
    ASSERT_TRUE(WIFSIGNALED(status));

    const std::unique_ptr<Store> store = Open(data);
    ASSERT_NE(store, nullptr);
    for (int number : acknowledged) {
      const Sample sample = MakeSample(number);
      const auto record = store->Get(sample.record.id());
      ASSERT_TRUE(record.ok()) << record.status();
    }
    // Whatever can be seen is whole, and the log numbers exactly that.
    const RecordPage page = *store->List("", "", 10'000);
    ASSERT_GE(page.records.size(), acknowledged.size());
    EXPECT_EQ(*store->LogSize(), page.records.size());
    std::set<uint64_t> numbers;
    for (const v1::PackageRecord& listed : page.records) {
      const auto record = store->Get(listed.id());
      ASSERT_TRUE(record.ok()) << record.status();
      EXPECT_TRUE(
          store->GetByManifest(AsDigest(record->manifest_sha256())).ok());
      numbers.insert(record->log_index());
      const auto entry = store->LogEntries(record->log_index(), 1);
      ASSERT_EQ(entry->size(), 1u);
      EXPECT_EQ((*entry)[0].package_id(), record->id());
      for (const proto::Digest& sha256 : DistinctChunks(*record)) {
        ASSERT_TRUE(store->GetChunk(sha256, Visible::kPublished).ok());
      }
    }
    EXPECT_EQ(numbers.size(), page.records.size());
    next = static_cast<int>(page.records.size()) + 1;
  }
  EXPECT_GT(acknowledged.size(), 100u);
}

TEST(RocksStoreTest, UnknownLayoutIsRefusedUntouched) {
  TempFolder folder;
  const std::string data = folder / "data";
  ASSERT_TRUE(Publish(Open(data).get(), MakeSample(1)).ok());
  WriteFile(data + "/layout", "motet-registry layout 2\n");
  const auto refused = OpenRocksStore(data);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("motet-registry layout 2"));
  WriteFile(data + "/layout", "motet-registry layout 1\n");
  EXPECT_TRUE(Open(data)->Get(MakeSample(1).record.id()).ok());
}

TEST(RocksStoreTest, FolderOfSomethingElseIsRefusedUntouched) {
  TempFolder folder;
  WriteFile(folder / "thesis.tex", "\\begin{document}");
  const auto refused = OpenRocksStore(folder.path());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("thesis.tex"));
  EXPECT_FALSE(proto::Exists(folder / "db"));
  EXPECT_FALSE(proto::Exists(folder / "layout"));
}

TEST(RocksStoreTest, OneProcessAtATime) {
  TempFolder folder;
  const auto first = Open(folder / "data");
  EXPECT_EQ(OpenRocksStore(folder / "data").status().code(),
            absl::StatusCode::kUnavailable);
}

// Finds the chunk's bytes in the database's files and flips a bit of them.
int FlipOnDisk(const std::string& data, const std::string& bytes) {
  int found = 0;
  for (const auto& entry : fs::directory_iterator(data + "/db")) {
    std::string file = ReadFile(entry.path().string());
    const size_t at = file.find(bytes);
    if (at == std::string::npos) continue;
    file[at + bytes.size() / 2] ^= 1;
    WriteFile(entry.path().string(), file);
    ++found;
  }
  return found;
}

TEST(RocksStoreTest, BitFlipOnDiskIsDataLossAndRepublishingRepairs) {
  TempFolder folder;
  const std::string data = folder / "data";
  const Sample sample = MakeSample(1);
  const Chunk& chunk = sample.chunks[3];
  ASSERT_TRUE(Publish(Open(data).get(), sample).ok());
  // Opening moves what the log held into blob files, where it is then read.
  Open(data).reset();
  ASSERT_GE(FlipOnDisk(data, chunk.bytes()), 1);

  const auto store = Open(data);
  ASSERT_NE(store, nullptr);
  EXPECT_THAT(*store->HasChunks({chunk.sha256()}), ElementsAre(true));
  const auto read = store->GetChunk(chunk.sha256(), Visible::kPublished);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss) << read.status();
  EXPECT_THAT(std::string(read.status().message()),
              HasSubstr(proto::Hex(chunk.sha256())));
  EXPECT_THAT(*store->HasChunks({chunk.sha256()}), ElementsAre(false));
  const auto others =
      store->GetChunk(sample.chunks[2].sha256(), Visible::kPublished);
  EXPECT_TRUE(others.ok()) << others.status();

  const absl::Status again = Publish(store.get(), sample);
  EXPECT_TRUE(again.ok()) << again;
  EXPECT_EQ(*store->GetChunk(chunk.sha256(), Visible::kPublished),
            chunk.bytes());
  EXPECT_EQ(*store->LogSize(), 1u);
}

// A limit on file sizes is what a full disk looks like to a writer, without
// the rights that a small file system would need.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_;
};

TEST(RocksStoreTest, FullDiskIsResourceExhaustedAndRecovers) {
  TempFolder folder;
  const std::string data = folder / "data";
  const auto store = Open(data);
  ASSERT_NE(store, nullptr);
  ASSERT_TRUE(Publish(store.get(), MakeSample(1)).ok());
  int failed = 0;
  {
    const FileSizeLimit limit(1 << 20);
    absl::Status status;
    for (failed = 2; failed < 100 && status.ok(); ++failed) {
      status = Publish(store.get(), MakeSample(failed));
    }
    --failed;
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("free"));
    // Reading goes on, and shows nothing of the one that failed.
    EXPECT_TRUE(store->Get(MakeSample(1).record.id()).ok());
    EXPECT_EQ(store->Get(MakeSample(failed).record.id()).status().code(),
              absl::StatusCode::kNotFound);
  }
  // Space has returned: the same store, without being opened again by us.
  const absl::Status status = Publish(store.get(), MakeSample(failed));
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(*store->LogSize(), static_cast<uint64_t>(failed));
  for (int number = 1; number <= failed; ++number) {
    const auto record = store->Get(MakeSample(number).record.id());
    ASSERT_TRUE(record.ok()) << record.status();
    for (const proto::Digest& sha256 : DistinctChunks(*record)) {
      ASSERT_TRUE(store->GetChunk(sha256, Visible::kPublished).ok());
    }
  }
}

TEST(RocksStoreTest, UploadsStopBeforeTheDiskIsFullRevocationsDoNot) {
  TempFolder folder;
  const std::string data = folder / "data";
  ASSERT_TRUE(Publish(Open(data).get(), MakeSample(1)).ok());
  RocksOptions options;
  options.reserve_bytes = int64_t{1} << 60;  // more than there is
  const auto store = OpenRocksStore(data, options);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(Publish(store->get(), MakeSample(2)).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(
      (*store)->Revoke(MakeSample(1).record.id(), "reason", "who", "now").ok());
}

}  // namespace
}  // namespace motet::registry

int main(int argc, char** argv) {
  if (argc == 4 && strcmp(argv[1], "--publish-until-killed") == 0) {
    return motet::registry::PublishUntilKilled(argv[2], atoi(argv[3]));
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
