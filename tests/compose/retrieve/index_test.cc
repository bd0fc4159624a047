// SPDX-License-Identifier: Apache-2.0
// Document indexes: what is added is found, what is removed is not, what is
// cut or altered is named, and what a dead process left behind is nothing.
#include "compose/retrieve/index.h"

#include <omp.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "compose/retrieve/bm25.h"
#include "compose/retrieve/flat.h"
#include "compose/retrieve/index_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/compose/retrieve/folder_fixture.h"

namespace motet::retrieve {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<int64_t> RowsOf(const Ranking& ranking) {
  std::vector<int64_t> rows;
  for (const Hit& hit : ranking) rows.push_back(hit.row);
  return rows;
}

class IndexTest : public FolderTest {
 protected:
  std::unique_ptr<IndexWriter> Create(IndexKind kind, int64_t width) const {
    auto writer = IndexWriter::Create(
        folder_, {proto::Sha256("encoder"), "encoder", width, 48, kind});
    EXPECT_TRUE(writer.ok()) << writer.status();
    return *std::move(writer);
  }
  std::unique_ptr<IndexWriter> Reopen() const {
    auto writer = IndexWriter::Open(folder_);
    EXPECT_TRUE(writer.ok()) << writer.status();
    return *std::move(writer);
  }
  std::unique_ptr<Index> OpenIndex(const OpenOptions& options = {}) const {
    auto index = Index::Open(folder_, options);
    EXPECT_TRUE(index.ok()) << index.status();
    return *std::move(index);
  }
  absl::Status Opened(const OpenOptions& options = {}) const {
    return Index::Open(folder_, options).status();
  }
  // Five documents on the axes of a plane.
  void AddFive() const {
    auto writer = Create(IndexKind::kAuto, 2);
    std::vector<Document> documents;
    const char* const texts[] = {"salt sea", "river water", "sea water", "law",
                                 "river bank river"};
    for (int i = 0; i < 5; ++i) {
      documents.push_back({"d" + std::to_string(i),
                           "",
                           texts[i],
                           {{"parity", std::to_string(i % 2)}}});
    }
    documents[4].metadata["kind"] = "note";
    const std::vector<float> vectors = {1,    0,  0, 1,    0.6f,
                                        0.8f, -1, 0, 0.8f, 0.6f};
    ASSERT_TRUE(writer->Add(documents, vectors).ok());
  }
  // Random directions about 50 centres, the same for every seed.
  static std::vector<float> Directions(int64_t rows, int64_t width, int seed) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<float> centres(static_cast<size_t>(50 * width));
    for (float& v : centres) v = normal(random);
    random.seed(static_cast<unsigned>(seed));
    std::vector<float> vectors;
    for (int64_t row = 0; row < rows; ++row) {
      float length = 0;
      const int64_t centre = static_cast<int64_t>(random() % 50);
      for (int64_t c = 0; c < width; ++c) {
        vectors.push_back(centres[static_cast<size_t>(centre * width + c)] +
                          0.7f * normal(random));
        length += vectors.back() * vectors.back();
      }
      for (int64_t c = 0; c < width; ++c) {
        vectors[static_cast<size_t>(row * width + c)] /= std::sqrt(length);
      }
    }
    return vectors;
  }
  static void AddDirections(IndexWriter& writer, std::span<const float> vectors,
                            int64_t from, int64_t to) {
    const int64_t width = writer.header().width;
    while (from < to) {
      const int64_t end = std::min(to, from + 1000);
      std::vector<Document> documents;
      for (int64_t row = from; row < end; ++row) {
        documents.push_back({std::to_string(row), "", "word", {}});
      }
      ASSERT_TRUE(
          writer
              .Add(documents,
                   vectors.subspan(static_cast<size_t>(from * width),
                                   static_cast<size_t>((end - from) * width)))
              .ok());
      from = end;
    }
  }
  // Of the 10 best of a flat scan, the part that the index finds; each with
  // the same score, to the bit.
  static double Recall(const Index& index, std::span<const float> vectors,
                       std::span<const float> queries, int64_t width) {
    const int64_t rows = static_cast<int64_t>(vectors.size()) / width;
    int64_t found = 0, all = 0;
    for (size_t at = 0; at < queries.size(); at += static_cast<size_t>(width)) {
      const auto query = queries.subspan(at, static_cast<size_t>(width));
      const Ranking want = SearchFlatAll(vectors, rows, width, query);
      const auto got = index.SearchVectors(query, 10);
      EXPECT_TRUE(got.ok()) << got.status();
      for (const Hit& hit : want) {
        ++all;
        for (const Hit& other : (*got)[0]) found += hit == other;
      }
    }
    return static_cast<double>(found) / static_cast<double>(all);
  }
  static Ranking SearchFlatAll(std::span<const float> vectors, int64_t rows,
                               int64_t width, std::span<const float> query);
  std::string Bytes(const std::string& name) const {
    std::ifstream in(folder_ + "/" + name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }
  void Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes;
  }
};

Ranking IndexTest::SearchFlatAll(std::span<const float> vectors, int64_t rows,
                                 int64_t width, std::span<const float> query) {
  return SearchFlat(vectors.data(), 0, rows, width, query, 10, nullptr)[0];
}

TEST_F(IndexTest, FindsWhatWasAdded) {
  AddFive();
  const auto index = OpenIndex();
  EXPECT_EQ(index->documents(), 5);
  EXPECT_EQ(index->kind(), IndexKind::kFlat);
  const std::vector<float> query = {1, 0};
  auto found = index->SearchVectors(query, 3);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_THAT((*found)[0], ElementsAre(Hit{0, 1}, Hit{4, double{0.8f}},
                                       Hit{2, double{0.6f}}));
  EXPECT_EQ(index->Get(2)->text, "sea water");
  EXPECT_THAT((*index->SearchVectors(query, 100))[0], SizeIs(5));
  EXPECT_THAT(*index->Fields(), ElementsAre("kind", "parity"));
}

TEST_F(IndexTest, FiltersAreEqualities) {
  AddFive();
  const auto index = OpenIndex();
  using Filters = std::vector<std::pair<std::string, std::string>>;
  const auto even = index->RowsWhere(Filters{{"parity", "0"}});
  EXPECT_THAT(*even, ElementsAre(0, 2, 4));
  EXPECT_THAT(*index->RowsWhere(Filters{{"parity", "0"}, {"kind", "note"}}),
              ElementsAre(4));
  EXPECT_THAT(*index->RowsWhere(Filters{{"kind", "no"}}), IsEmpty());
  const std::vector<float> up = {0, 1};
  EXPECT_THAT(RowsOf((*index->SearchVectors(up, 9, &*even))[0]),
              ElementsAre(2, 4, 0));
  EXPECT_THAT(RowsOf(*index->SearchText("river water", 9, &*even)),
              ElementsAre(4, 2));
  const auto unknown = index->RowsWhere(Filters{{"colour", "red"}});
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.status().message()),
              AllOf(HasSubstr("\"colour\""), HasSubstr("kind, parity")));
}

TEST_F(IndexTest, RemovedAndReplacedDocumentsAreGone) {
  AddFive();
  const auto before = OpenIndex();
  {
    auto writer = Reopen();
    const std::vector<std::string> ids = {"d0", "d3"};
    ASSERT_TRUE(writer->Remove(ids).ok());
    const std::vector<std::string> gone = {"d1", "d0"};
    EXPECT_EQ(writer->Remove(gone).code(), absl::StatusCode::kNotFound);
    const std::vector<Document> again = {{"d4", "", "salt", {}}};
    const std::vector<float> vector = {0.5f, 0};
    EXPECT_EQ(writer->Add(again, vector).code(),
              absl::StatusCode::kAlreadyExists);
    ASSERT_TRUE(writer->Add(again, vector, /*replace=*/true).ok());
  }
  const auto index = OpenIndex();
  EXPECT_EQ(index->documents(), 3);
  const std::vector<float> query = {1, 0};
  EXPECT_THAT(RowsOf((*index->SearchVectors(query, 9))[0]),
              ElementsAre(2, 5, 1));
  EXPECT_EQ(index->Get(5)->text, "salt");
  EXPECT_THAT(*index->Fields(), ElementsAre("parity"));
  // An open reader goes on with what it had.
  EXPECT_THAT(RowsOf((*before->SearchVectors(query, 2))[0]), ElementsAre(0, 4));
  EXPECT_NE(index->ContentDigest(), before->ContentDigest());

  // BM25 is that of the living.
  Bm25 living;
  for (const char* text : {"river water", "sea water", "salt"}) {
    living.Add(text);
  }
  const int64_t rows[] = {1, 2, 5};
  for (const char* query_text : {"water", "salt sea", "river river salt"}) {
    Ranking want = living.Search(query_text, 9);
    for (Hit& hit : want) hit.row = rows[hit.row];
    EXPECT_EQ(*index->SearchText(query_text, 9), want) << query_text;
  }
}

TEST_F(IndexTest, OneWriterAtATime) {
  AddFive();
  auto writer = Reopen();
  EXPECT_EQ(IndexWriter::Open(folder_).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Opened().ok());
}

TEST_F(IndexTest, WhatADeadWriterLeftIsNothing) {
  AddFive();
  const std::string vectors = Bytes("vectors.f32");
  Write("vectors.f32", vectors + std::string(100, 'x'));
  fs::create_directories(folder_ + "/structures");
  Write("structures/hnsw-9.partial", "half");
  EXPECT_EQ(OpenIndex()->documents(), 5);
  {
    auto writer = Reopen();
    const std::vector<Document> more = {{"d5", "", "more", {}}};
    const std::vector<float> vector = {2, 0};
    ASSERT_TRUE(writer->Add(more, vector).ok());
  }
  EXPECT_EQ(Bytes("vectors.f32").substr(0, vectors.size()), vectors);
  EXPECT_EQ(Bytes("vectors.f32").size(), vectors.size() + 8);
  EXPECT_FALSE(fs::exists(folder_ + "/structures/hnsw-9.partial"));
  const std::vector<float> query = {1, 0};
  EXPECT_THAT((*OpenIndex()->SearchVectors(query, 1))[0],
              ElementsAre(Hit{5, 2}));
}

TEST_F(IndexTest, DamageIsNamed) {
  AddFive();
  const auto damaged = [&](const std::string& name, const std::string& bytes,
                           const std::string& says) {
    const std::string good = Bytes(name);
    Write(name, bytes);
    const absl::Status status = Opened();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(name), HasSubstr(says)));
    Write(name, good);
  };
  const std::string vectors = Bytes("vectors.f32");
  damaged("vectors.f32", vectors.substr(0, 39), "39 bytes");
  std::string altered = vectors;
  altered[17] ^= 1;
  damaged("vectors.f32", altered, "rows 0 to 4");
  std::string header = Bytes("index.json");
  header.replace(header.find("48"), 2, "47");
  damaged("index.json", header, "digest");
  EXPECT_TRUE(Opened().ok());
  Write("vectors.f32", altered);
  EXPECT_TRUE(Opened({.verify = false}).ok());
  fs::remove(folder_ + "/vectors.f32");
  EXPECT_THAT(std::string(Opened().message()), HasSubstr("no such file"));
  fs::remove_all(folder_ + "/texts");
  EXPECT_EQ(Opened().code(), absl::StatusCode::kNotFound);
  fs::remove(folder_ + "/index.json");
  EXPECT_THAT(std::string(Opened().message()), HasSubstr("index build"));
}

TEST_F(IndexTest, AnotherHeaderIsRefused) {
  AddFive();
  const auto other = IndexWriter::Create(
      folder_, {proto::Sha256("other"), "other", 2, 48, IndexKind::kAuto});
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  fs::remove(folder_ + "/index.json");
  const auto foreign = IndexWriter::Create(
      folder_, {proto::Sha256("other"), "other", 2, 48, IndexKind::kAuto});
  EXPECT_EQ(foreign.status().code(), absl::StatusCode::kFailedPrecondition);
}

// A block's record that says less than was written: no digest covers it.
TEST_F(IndexTest, RowsThatAreNotThereAreRefused) {
  AddFive();
  {
    auto store = TextStore::OpenForWriting(TextsPath(folder_));
    ASSERT_TRUE(store.ok()) << store.status();
    const Block block = {0, 1, proto::Digest{}, {1}};
    const std::vector<Document> documents = {{"other", "", "other", {}}};
    ASSERT_TRUE((*store)->Commit(block, documents, false).ok());
  }
  const auto index = OpenIndex({.verify = false});
  EXPECT_EQ(index->rows(), 1);
  const auto refused = [&](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(
        std::string(status.message()),
        AllOf(HasSubstr(TextsPath(folder_)), HasSubstr("build the index")));
  };
  using Filters = std::vector<std::pair<std::string, std::string>>;
  refused(index->RowsWhere(Filters{{"parity", "1"}}).status());
  refused(index->SearchText("river", 3).status());
}

TEST(IndexFiles, AWrongFieldNamesItsFile) {
  const std::string record = WriteStructureRecord(
      {IndexKind::kHnsw, "hnsw-9", 9, 1234, proto::Sha256("c")});
  const auto says = [&](const std::string& field, const std::string& value,
                        const std::string& name) {
    std::string altered = record;
    altered.replace(altered.find(field), field.size(), value);
    const auto parsed = ParseStructureRecord(altered, "the/file");
    EXPECT_THAT(std::string(parsed.status().message()),
                AllOf(HasSubstr("[the/file]"), HasSubstr(name),
                      HasSubstr("build the index anew")))
        << altered;
  };
  says(proto::Hex(proto::Sha256("c")), "abc", "sha256: \"abc\"");
  says("\"hnsw\"", "\"tree\"", "kind: \"tree\"");
  says("\"hnsw\"", "7", "kind: number");
  says("1234", "-1", "bytes: -1");
  says("\"hnsw\"", "\"flat\"", "flat in hnsw-9");
  const auto header = ParseIndexHeader(
      R"({"format": 1, "encoder": "e", "encoder_sha256": "xyz", "width": 1,
          "max_tokens": 1, "kind": "auto", "sha256": ""})",
      "the/file");
  EXPECT_THAT(std::string(header.status().message()),
              AllOf(HasSubstr("[the/file]"), HasSubstr("encoder_sha256"),
                    HasSubstr("build the index anew")));
}

class StructureTest : public IndexTest,
                      public ::testing::WithParamInterface<IndexKind> {};

TEST_P(StructureTest, FindsAlmostAllWithExactScores) {
  constexpr int64_t kRows = 6000, kWidth = 32;
  const std::vector<float> vectors = Directions(kRows, kWidth, 1);
  const std::vector<float> queries = Directions(40, kWidth, 9);
  {
    auto writer = Create(GetParam(), kWidth);
    AddDirections(*writer, vectors, 0, 4500);
    ASSERT_TRUE(writer->Build(true, nullptr).ok());
    EXPECT_EQ(writer->structure_rows(), 4500);
    // So few stay behind the structure, and are scanned.
    AddDirections(*writer, vectors, 4500, 5000);
    ASSERT_TRUE(writer->Build(false, nullptr).ok());
    EXPECT_EQ(writer->structure_rows(), 4500);
  }
  EXPECT_GE(Recall(*OpenIndex(), std::span(vectors).first(5000 * kWidth),
                   queries, kWidth),
            0.95);
  {
    auto writer = Reopen();
    AddDirections(*writer, vectors, 5000, kRows);
    ASSERT_TRUE(writer->Build(false, nullptr).ok());
    EXPECT_EQ(writer->structure_rows(), kRows);
  }
  const auto index = OpenIndex();
  EXPECT_EQ(index->kind(), GetParam());
  EXPECT_GE(Recall(*index, vectors, queries, kWidth), 0.95);

  // Without the best, the next; without nearly all, still what is left.
  const auto query = std::span(vectors).first(kWidth);
  const Ranking best = (*index->SearchVectors(query, 5))[0];
  EXPECT_EQ(best[0].row, 0);
  {
    auto writer = Reopen();
    const std::vector<std::string> id = {"0"};
    ASSERT_TRUE(writer->Remove(id).ok());
  }
  const Ranking next = (*OpenIndex()->SearchVectors(query, 4))[0];
  ASSERT_THAT(next, SizeIs(4));
  EXPECT_EQ(next[0], best[1]);
  for (const Hit& hit : next) EXPECT_NE(hit.row, 0);
  {
    auto writer = Reopen();
    std::vector<std::string> ids;
    for (int64_t row = 1; row < kRows - 3; ++row) {
      ids.push_back(std::to_string(row));
    }
    ASSERT_TRUE(writer->Remove(ids).ok());
  }
  EXPECT_THAT((*OpenIndex()->SearchVectors(query, 5))[0], SizeIs(3));
}

TEST_P(StructureTest, DamageIsNamed) {
  constexpr int64_t kWidth = 16;
  const std::vector<float> vectors = Directions(2000, kWidth, 3);
  {
    auto writer = Create(GetParam(), kWidth);
    AddDirections(*writer, vectors, 0, 2000);
    ASSERT_TRUE(writer->Build(true, nullptr).ok());
  }
  const std::string name =
      "structures/" + std::string(Name(GetParam())) + "-2000";
  const std::string good = Bytes(name);
  Write(name, good.substr(0, good.size() - 1));
  EXPECT_THAT(std::string(Opened().message()), HasSubstr(name));
  std::string altered = good;
  altered[good.size() / 2] ^= 1;
  Write(name, altered);
  EXPECT_EQ(Opened().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(Opened().message()), HasSubstr("SHA-256"));
  fs::remove(folder_ + "/" + name);
  EXPECT_THAT(std::string(Opened().message()), HasSubstr("index build"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, StructureTest,
                         ::testing::Values(IndexKind::kHnsw, IndexKind::kIvfPq),
                         [](const auto& info) {
                           return info.param == IndexKind::kHnsw
                                      ? std::string("Hnsw")
                                      : std::string("IvfPq");
                         });

// Size and, in a crafted index, digest hold, but the links lead astray.
TEST_F(IndexTest, AGraphsLinksStayOnTheirLevels) {
  constexpr int64_t kWidth = 16, kRows = 2000;
  {
    auto writer = Create(IndexKind::kHnsw, kWidth);
    AddDirections(*writer, Directions(kRows, kWidth, 3), 0, kRows);
    ASSERT_TRUE(writer->Build(true, nullptr).ok());
  }
  const std::string name = "structures/hnsw-2000";
  const std::string good = Bytes(name);
  constexpr size_t kHead = 8 + 4 * 8;
  const auto number = [&](size_t at) {
    int32_t value = 0;
    std::memcpy(&value, good.data() + kHead + 4 * at, 4);
    return value;
  };
  // The first row of two levels, one of one, and where the links of the first
  // begin on its upper level.
  size_t high = kRows, low = kRows, links = kRows;
  for (size_t row = kRows; row-- > 0;) (number(row) > 1 ? high : low) = row;
  ASSERT_LT(high, size_t{kRows});
  ASSERT_LT(low, size_t{kRows});
  ASSERT_EQ(number(high), 2);
  for (size_t row = 0; row < high; ++row) {
    links += static_cast<size_t>(32 + 32 * number(row));
  }
  const auto damaged = [&](size_t at, int32_t value) {
    std::string altered = good;
    std::memcpy(altered.data() + kHead + 4 * at, &value, 4);
    Write(name, altered);
    const absl::Status status = Opened({.verify = false});
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  };
  damaged(links + 64, static_cast<int32_t>(low));  // low is not so high
  damaged(links, kRows);                           // no such row
  damaged(links, -2);
  damaged(low, 16);  // more levels than FAISS has
  Write(name, good);
  EXPECT_TRUE(Opened({.verify = false}).ok());
}

TEST_F(IndexTest, AListsRowsAreThere) {
  constexpr int64_t kWidth = 16, kRows = 2000, kRow = 1234;
  const std::vector<float> vectors = Directions(kRows, kWidth, 3);
  {
    auto writer = Create(IndexKind::kIvfPq, kWidth);
    AddDirections(*writer, vectors, 0, kRows);
    ASSERT_TRUE(writer->Build(true, nullptr).ok());
  }
  const std::string name = "structures/ivf-pq-2000";
  const std::string good = Bytes(name);
  const auto bytes = [](int64_t row) {
    return std::string(reinterpret_cast<const char*>(&row), sizeof row);
  };
  const size_t at = good.find(bytes(kRow));
  ASSERT_NE(at, std::string::npos);
  ASSERT_EQ(good.find(bytes(kRow), at + 1), std::string::npos);
  for (const int64_t row : {kRows, int64_t{1} << 40, int64_t{-2}}) {
    std::string altered = good;
    altered.replace(at, sizeof row, bytes(row));
    Write(name, altered);
    const auto found =
        OpenIndex({.verify = false})
            ->SearchVectors(std::span(vectors).subspan(kRow * kWidth, kWidth),
                            3);
    EXPECT_EQ(found.status().code(), absl::StatusCode::kDataLoss)
        << found.status();
    EXPECT_THAT(
        std::string(found.status().message()),
        AllOf(HasSubstr(name), HasSubstr("row " + std::to_string(row))));
  }
}

// On one thread a graph that went on from what was written is that of a
// process which was never interrupted.
TEST_F(IndexTest, AGraphGoesOnWhereItWas) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  constexpr int64_t kWidth = 16, kStep = 4096, kRows = 2 * kStep;
  const std::vector<float> vectors = Directions(kRows, kWidth, 2);
  std::set<std::string> graphs;
  for (const int64_t first : {kStep, kRows}) {
    fs::remove_all(folder_);
    {
      auto writer = Create(IndexKind::kHnsw, kWidth);
      AddDirections(*writer, vectors, 0, first);
      ASSERT_TRUE(writer->Build(true, nullptr).ok());
    }
    auto writer = Reopen();
    AddDirections(*writer, vectors, first, kRows);
    ASSERT_TRUE(writer->Build(true, nullptr).ok());
    graphs.insert(Bytes("structures/hnsw-8192"));
  }
  EXPECT_THAT(graphs, SizeIs(1));
  EXPECT_GT(graphs.begin()->size(), size_t{kRows} * 64 * 4);
  omp_set_num_threads(threads);
}

TEST(KindFor, IsARuleOfSize) {
  EXPECT_EQ(KindFor(IndexKind::kAuto, 100'000), IndexKind::kFlat);
  EXPECT_EQ(KindFor(IndexKind::kAuto, 100'001), IndexKind::kHnsw);
  EXPECT_EQ(KindFor(IndexKind::kAuto, 5'000'001), IndexKind::kIvfPq);
  EXPECT_EQ(KindFor(IndexKind::kHnsw, 1), IndexKind::kHnsw);
  EXPECT_EQ(KindFor(IndexKind::kIvfPq, 999), IndexKind::kFlat);
  EXPECT_FALSE(ParseIndexKind("tree").ok());
}

}  // namespace
}  // namespace motet::retrieve
