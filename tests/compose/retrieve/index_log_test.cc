// SPDX-License-Identifier: Apache-2.0
// The log of an index's text store: a write that was acknowledged is there, or
// the index is damaged; what nobody was told of is nothing.
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "compose/retrieve/index.h"
#include "compose/retrieve/index_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/files.h"
#include "tests/compose/retrieve/folder_fixture.h"

namespace motet::retrieve {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// The text store's log, where the last writes are until the next writer comes:
// a cut or altered one looks to RocksDB like that of a dead process. A small one,
// and one of several of its 32 KiB blocks.
class LogTest : public FolderTest, public ::testing::WithParamInterface<int> {
 protected:
  absl::Status Opened() const { return Index::Open(folder_).status(); }
  std::string Bytes(const std::string& name) const {
    const auto bytes = proto::ReadFile(folder_ + "/" + name, 1 << 20);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return *bytes;
  }
  void Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes;
  }
  void AddSome() {
    auto writer = IndexWriter::Create(
        folder_,
        {proto::Sha256("encoder"), "encoder", 2, 48, IndexKind::kAuto});
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int commit = 0; commit < 3; ++commit) {
      std::vector<Document> documents;
      std::vector<float> vectors;
      for (int i = 0; i < GetParam(); ++i) {
        documents.push_back({absl::StrCat(commit, ".", i), "",
                             absl::StrCat("a text of ", i, " ", 7 * i), {}});
        vectors.insert(vectors.end(), {1, static_cast<float>(i)});
      }
      ASSERT_TRUE((*writer)->Add(documents, vectors).ok());
    }
  }
  std::string Log() const {
    std::string log;
    for (const auto& entry : fs::directory_iterator(folder_ + "/texts")) {
      if (entry.path().extension() == ".log") {
        log = "texts/" + entry.path().filename().string();
      }
    }
    return log;
  }
};

TEST_P(LogTest, ACutOrAlteredOneIsNamed) {
  AddSome();
  const std::string log = Log();
  const std::string good = Bytes(log);
  ASSERT_GT(good.size(), 100u);
  const std::string vectors = Bytes("vectors.f32");
  const auto refused = [&](const std::string& bytes) {
    Write(log, bytes);
    const absl::Status read = Opened();
    EXPECT_EQ(read.code(), absl::StatusCode::kDataLoss) << read;
    EXPECT_THAT(std::string(read.message()), HasSubstr("/texts"));
    const auto writer = IndexWriter::Open(folder_);
    EXPECT_EQ(writer.status().code(), absl::StatusCode::kDataLoss)
        << writer.status();
    // A refused writer has changed nothing.
    EXPECT_EQ(Bytes(log), bytes);
    EXPECT_EQ(Bytes("vectors.f32"), vectors);
  };
  for (size_t at = 0; at < good.size(); at += 1 + good.size() / 15) {
    refused(good.substr(0, at));
    for (const char flip : {0x55, -128}) {
      std::string altered = good;
      altered[at] = static_cast<char>(altered[at] ^ flip);
      refused(altered);
    }
  }
  Write(log, good);
  EXPECT_TRUE(Opened().ok());
  const std::string number = Bytes("texts.acknowledged");
  Write("texts.acknowledged", "");
  EXPECT_THAT(std::string(Opened().message()),
              HasSubstr("texts.acknowledged"));
  Write("texts.acknowledged", number);
  EXPECT_TRUE(Opened().ok());
}

// What a process left that died before anybody was told: behind the last
// acknowledged write anything may stand.
TEST_P(LogTest, WhatNobodyWasToldOfIsCutOff) {
  AddSome();
  const std::string number = Bytes("texts.acknowledged");
  int64_t rows = 0;
  {
    auto writer = IndexWriter::Open(folder_);
    ASSERT_TRUE(writer.ok()) << writer.status();
    rows = (*writer)->rows();
    ASSERT_TRUE((*writer)->Add(std::vector<Document>{{"more", "", "text", {}}},
                               std::vector<float>{1, 1})
                    .ok());
  }
  const std::string log = Log();
  std::string torn = Bytes(log);
  ASSERT_GT(torn.size(), 20u);
  torn[torn.size() / 2] ^= 0x55;
  Write(log, torn);
  EXPECT_EQ(Opened().code(), absl::StatusCode::kDataLoss);  // it was told of
  Write("texts.acknowledged", number);
  EXPECT_TRUE(Opened().ok()) << Opened();
  auto writer = IndexWriter::Open(folder_);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ((*writer)->rows(), rows);
  EXPECT_EQ(fs::file_size(folder_ + "/vectors.f32"),
            static_cast<uintmax_t>(rows * 2 * 4));
}

INSTANTIATE_TEST_SUITE_P(Documents, LogTest, ::testing::Values(2, 256));

}  // namespace
}  // namespace motet::retrieve
