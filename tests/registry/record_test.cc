// SPDX-License-Identifier: Apache-2.0
#include "registry/record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/limits.h"
#include "registry/client.h"
#include "tests/registry/fixture.h"

namespace motet::registry {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(PackageIdTest, Parts) {
  const auto id = ParsePackageId("clinic.example/cardio-2@1.20.0-rc.1");
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(id->owner, "clinic.example");
  EXPECT_EQ(id->name, "cardio-2");
  EXPECT_EQ(id->version, "1.20.0-rc.1");
}

TEST(PackageIdTest, Refusals) {
  for (const std::string id : {"",
                               "/",
                               "@",
                               "a",
                               "a/b",
                               "a/b@",
                               "a/b@1",
                               "a/b@1.0",
                               "a/b@1.0.0.0",
                               "a/b@01.0.0",
                               "a/b@1.0.x",
                               "a/b@1.0.0-",
                               "a/b@1.0.0-é",
                               "a/B@1.0.0",
                               "A/b@1.0.0",
                               "a/b c@1.0.0",
                               "a/../b@1.0.0",
                               "/b@1.0.0",
                               "a/@1.0.0",
                               "a@1.0.0/b",
                               "a/b@1.0.0\n",
                               "a/b/c@1.0.0",
                               "a/b@@1.0.0",
                               "a/b@9999999999.0.0"}) {
    EXPECT_FALSE(ParsePackageId(id).ok()) << id;
  }
  EXPECT_FALSE(ParsePackageId("a/" + std::string(65, 'b') + "@1.0.0").ok());
  EXPECT_FALSE(ParsePackageId("a/b@1.0.0-" + std::string(300, '0')).ok());
  EXPECT_TRUE(ParsePackageId("a/" + std::string(64, 'b') + "@1.0.0").ok());
}

TEST(PathTest, PathsThatCouldLeaveTheFolderAreRefused) {
  for (const char* path : {"a", "a.b", "weights.safetensors", "a/b/c",
                           "_-+."
                           "x"}) {
    EXPECT_TRUE(CheckPath(path).ok()) << path;
  }
  for (const std::string path : {"", "/", "/a", "a/", "a//b", ".", "..", "a/..",
                                 "../a", "a/./b", "a\\b", "a b", "a\n", "é"}) {
    EXPECT_FALSE(CheckPath(path).ok()) << path;
  }
  EXPECT_FALSE(CheckPath(std::string("a\0b", 3)).ok());
  EXPECT_FALSE(CheckPath(std::string(201, 'a')).ok());
}

v1::FileEntry* AddFile(v1::PackageRecord* record, const std::string& path) {
  v1::FileEntry* file = record->add_files();
  file->set_path(path);
  file->set_size_bytes(30);
  file->set_sha256(std::string(32, 'f'));
  for (uint32_t size : {10, 20}) {
    v1::ChunkRef* chunk = file->add_chunks();
    chunk->set_sha256(std::string(32, 'c'));
    chunk->set_size_bytes(size);
  }
  return file;
}

v1::PackageRecord GoodRecord() {
  v1::PackageRecord record;
  record.set_id("alto.example/cantus@1.0.0");
  record.set_manifest_sha256(std::string(32, 'f'));
  for (const char* path : {"README.md", "manifest.json", "model.sig"}) {
    AddFile(&record, path);
  }
  return record;
}

TEST(CheckRecordTest, GoodOnePasses) {
  EXPECT_TRUE(CheckRecord(GoodRecord()).ok()) << CheckRecord(GoodRecord());
}

TEST(CheckRecordTest, EachDefectIsNamed) {
  using Change = std::function<void(v1::PackageRecord*)>;
  const std::pair<Change, const char*> cases[] = {
      {[](auto* r) { r->set_id("x"); }, "package id"},
      {[](auto* r) { r->mutable_files(0)->set_path("../x"); }, "../x"},
      {[](auto* r) { r->mutable_files(0)->set_path("z"); }, "sorted"},
      {[](auto* r) { r->mutable_files(0)->set_path("manifest.json"); },
       "sorted"},
      {[](auto* r) { AddFile(r, "model.sig/x"); }, "needs a folder"},
      {[](auto* r) { r->mutable_files(0)->set_sha256("short"); }, "32 bytes"},
      {[](auto* r) { r->mutable_files(0)->set_size_bytes(31); },
       "the file's 31"},
      {[](auto* r) {
         r->mutable_files(0)->mutable_chunks(0)->set_size_bytes(0);
       },
       "chunks of 1 to"},
      {[](auto* r) {
         r->mutable_files(0)->mutable_chunks(0)->set_size_bytes((1 << 20) + 1);
       },
       "chunks of 1 to"},
      {[](auto* r) { r->mutable_files(0)->mutable_chunks(0)->clear_sha256(); },
       "32-byte digest"},
      {[](auto* r) { r->mutable_files()->RemoveLast(); }, "no model.sig"},
      {[](auto* r) { r->mutable_files()->DeleteSubrange(1, 1); },
       "no manifest.json"},
      {[](auto* r) { r->set_manifest_sha256(std::string(32, 'g')); },
       "the digest of manifest.json"},
      {[](auto* r) {
         for (int i = 0; i < 70; ++i) AddFile(r, absl::StrCat("z", i));
       },
       "at most 64"},
  };
  for (const auto& [change, message] : cases) {
    v1::PackageRecord record = GoodRecord();
    change(&record);
    const absl::Status status = CheckRecord(record);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(CheckRecordTest, LongSignatureIsRefused) {
  v1::PackageRecord record = GoodRecord();
  v1::FileEntry* file = record.mutable_files(2);
  file->set_size_bytes(30 + (1 << 20));
  v1::ChunkRef* chunk = file->add_chunks();
  chunk->set_sha256(std::string(32, 'c'));
  chunk->set_size_bytes(1 << 20);
  EXPECT_FALSE(CheckRecord(record).ok());
}

std::vector<uint32_t> Sizes(const v1::FileEntry& entry) {
  std::vector<uint32_t> sizes;
  for (const auto& chunk : entry.chunks()) sizes.push_back(chunk.size_bytes());
  return sizes;
}

TEST(DescribeFileTest, CutsWhereAskedAndAtOneMebibyte) {
  TempFolder folder;
  const std::string path = folder / "file";
  const std::string bytes = Noise((2 << 20) + 5, 3);
  WriteFile(path, bytes);
  constexpr uint32_t kMiB = 1 << 20;
  const auto plain = DescribeFile(path, "name", {});
  EXPECT_THAT(Sizes(*plain), ElementsAre(kMiB, kMiB, 5));
  EXPECT_EQ(plain->sha256(), proto::ToBytes(proto::Sha256(bytes)));
  EXPECT_EQ(plain->chunks(2).sha256(),
            proto::ToBytes(proto::Sha256(bytes.substr(2 * kMiB))));
  EXPECT_THAT(Sizes(*DescribeFile(path, "name", {0, 7, 7, kMiB, kMiB + 1})),
              ElementsAre(7, kMiB - 7, 1, kMiB, 4));
  EXPECT_THAT(Sizes(*DescribeFile(path, "name", {bytes.size()})),
              ElementsAre(kMiB, kMiB, 5));
  EXPECT_FALSE(DescribeFile(path, "name", {9, 7}).ok());
  EXPECT_FALSE(DescribeFile(path, "name", {bytes.size() + 1}).ok());
  WriteFile(path, "");
  EXPECT_THAT(Sizes(*DescribeFile(path, "name", {})), ElementsAre());
  EXPECT_EQ(DescribeFile(folder / "none", "name", {}).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace motet::registry
