// SPDX-License-Identifier: Apache-2.0
// Atomic writes, with a disk that is full: a limit on file sizes makes write()
// fail in the middle just as ENOSPC does.
#include "proto/files.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "fixture.h"
#include "proto/digest.h"

namespace motet::proto {
namespace {

int ModeOf(const std::string& path) {
  struct stat st;
  return stat(path.c_str(), &st) == 0 ? st.st_mode & 07777 : -1;
}

TEST(FilesTest, WritesReplaceAndSetTheMode) {
  const TempFolder folder;
  const std::string path = folder / "file";
  ASSERT_TRUE(WriteFileAtomic(path, "first").ok());
  EXPECT_EQ(Get(path), "first");
  EXPECT_EQ(ModeOf(path), 0644);
  const std::string second("se\0cond", 7);
  ASSERT_TRUE(WriteFileAtomic(path, second, 0600).ok());
  EXPECT_EQ(Get(path), second);
  EXPECT_EQ(ModeOf(path), 0600);
  EXPECT_EQ(*ListDirectory(folder.path()), std::vector<std::string>{"file"});
}

TEST(FilesTest, AFullDiskLeavesTheOldFileAndNothingElse) {
  const TempFolder folder;
  const std::string path = folder / "file";
  Put(path, "old");
  // In a child: the limit cannot be taken back safely for other tests.
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);  // write() then fails with EFBIG
    const rlimit limit = {100'000, 100'000};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(2);
    const absl::Status status =
        WriteFileAtomic(path, std::string(1'000'000, 'x'));
    _exit(status.ok() ? 1 : 0);
  }
  int result = 0;
  ASSERT_EQ(waitpid(child, &result, 0), child);
  ASSERT_TRUE(WIFEXITED(result));
  EXPECT_EQ(WEXITSTATUS(result), 0);
  EXPECT_EQ(Get(path), "old");
  EXPECT_EQ(*ListDirectory(folder.path()), std::vector<std::string>{"file"});
}

TEST(FilesTest, WritingIntoAMissingFolderFails) {
  const TempFolder folder;
  EXPECT_EQ(WriteFileAtomic(folder / "none/file", "x").code(),
            absl::StatusCode::kNotFound);
}

TEST(FilesTest, AFailedRenameLeavesNoTemporaryFile) {
  const TempFolder folder;
  ASSERT_TRUE(MakeDirectories(folder / "taken/by/a/folder").ok());
  EXPECT_FALSE(WriteFileAtomic(folder / "taken", "x").ok());
  EXPECT_EQ(*ListDirectory(folder.path()), std::vector<std::string>{"taken"});
}

TEST(FilesTest, ReadersSeeOneOfTheContentsWhole) {
  const TempFolder folder;
  const std::string path = folder / "file";
  const std::string a(50'000, 'a'), b(70'000, 'b');
  Put(path, a);
  std::thread writer([&] {
    for (int i = 0; i < 50; ++i) {
      EXPECT_TRUE(WriteFileAtomic(path, i % 2 == 0 ? b : a).ok());
    }
  });
  for (int i = 0; i < 200; ++i) {
    const auto bytes = ReadFile(path, 100'000);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    EXPECT_TRUE(*bytes == a || *bytes == b) << bytes->size();
  }
  writer.join();
}

TEST(FilesTest, ReadsAreBounded) {
  const TempFolder folder;
  Put(folder / "file", std::string(1000, 'x'));
  EXPECT_EQ(ReadFile(folder / "file", 1000)->size(), 1000u);
  EXPECT_EQ(ReadFile(folder / "file", 999).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReadFile(folder / "none", 10).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadFile(folder.path(), 10).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(FilesTest, APipeIsRefusedWithoutWaiting) {
  const TempFolder folder;
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(ReadFile(folder / "pipe", 10).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Sha256File(folder / "pipe").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(FilesTest, FoldersAreMadeAndListedSorted) {
  const TempFolder folder;
  ASSERT_TRUE(MakeDirectories(folder / "a/b/c", 0700).ok());
  ASSERT_TRUE(MakeDirectories(folder / "a/b/c", 0700).ok());
  EXPECT_EQ(ModeOf(folder / "a/b/c"), 0700);
  Put(folder / "a/z", "");
  Put(folder / "a/A", "");
  EXPECT_EQ(*ListDirectory(folder / "a"),
            (std::vector<std::string>{"A", "b", "z"}));
  EXPECT_FALSE(MakeDirectories(folder / "a/z").ok());
  EXPECT_FALSE(ListDirectory(folder / "nothing").ok());
}

TEST(FilesTest, RenameMovesFolders) {
  const TempFolder folder;
  ASSERT_TRUE(MakeDirectories(folder / "tmp").ok());
  Put(folder / "tmp/x", "x");
  ASSERT_TRUE(RenameDurably(folder / "tmp", folder / "done").ok());
  EXPECT_TRUE(Exists(folder / "done/x"));
  EXPECT_FALSE(Exists(folder / "tmp"));
  EXPECT_FALSE(RenameDurably(folder / "tmp", folder / "again").ok());
}

TEST(FilesTest, ExchangeLetsFoldersChangePlaces) {
  const TempFolder folder;
  ASSERT_TRUE(MakeDirectories(folder / "new").ok());
  Put(folder / "new/x", "new");
  ASSERT_TRUE(ExchangeDurably(folder / "new", folder / "place").ok());
  EXPECT_FALSE(Exists(folder / "new"));
  ASSERT_TRUE(MakeDirectories(folder / "newer").ok());
  Put(folder / "newer/y", "newer");
  ASSERT_TRUE(ExchangeDurably(folder / "newer", folder / "place").ok());
  EXPECT_TRUE(Exists(folder / "place/y"));
  EXPECT_FALSE(Exists(folder / "place/x"));
  EXPECT_EQ(*ReadFile(folder / "newer/x", 10), "new");
  EXPECT_FALSE(ExchangeDurably(folder / "none", folder / "place").ok());
  EXPECT_TRUE(Exists(folder / "place/y"));
}

TEST(FilesTest, LocksExcludeUntilTheyDie) {
  const TempFolder folder;
  auto first = FileLock::Take(folder / "lock", "testing");
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = FileLock::Take(folder / "lock", "more testing");
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(second.status().message().find("more testing"),
            absl::string_view::npos);
  {
    const FileLock moved = std::move(*first);
    EXPECT_FALSE(FileLock::Take(folder / "lock", "x").ok());
  }
  EXPECT_TRUE(FileLock::Take(folder / "lock", "x").ok());
}

}  // namespace
}  // namespace motet::proto
