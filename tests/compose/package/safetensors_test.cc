// SPDX-License-Identifier: Apache-2.0
#include "compose/package/safetensors.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/files.h"

namespace motet::package {
namespace {

using ::testing::HasSubstr;

std::string FreshFolder(const std::string& name) {
  std::string path = absl::StrCat(testing::TempDir(), name, "XXXXXX");
  EXPECT_NE(mkdtemp(path.data()), nullptr);
  return path;
}

// A file's bytes from its header and its data.
std::string File(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  const uint64_t n = header.size();
  memcpy(bytes.data(), &n, 8);
  return bytes + header + data;
}

// Pads the JSON so that the data begins at a multiple of 8.
std::string Padded(std::string header) {
  header.append((8 - header.size() % 8) % 8, ' ');
  return header;
}

std::string OneTensor(const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
  return Padded(absl::StrCat(R"({"t":{"dtype":")", dtype, R"(","shape":)",
                             shape, R"(,"data_offsets":)", offsets, "}}"));
}

// The message of a refusal; empty when the bytes were taken.
std::string Refusal(const std::string& bytes) {
  const auto parsed = ParseSafetensors(bytes, "x.safetensors");
  if (parsed.ok()) return "";
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(parsed.status().message());
  EXPECT_THAT(message, HasSubstr("[safetensors x.safetensors] got "));
  return message;
}

TEST(Safetensors, ReadsATensor) {
  const std::string bytes =
      File(OneTensor("F32", "[2,1]", "[0,8]"), std::string(8, '\1'));
  const auto parsed = ParseSafetensors(bytes, "x");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->size(), 1u);
  const SafetensorsFile::Entry& e = parsed->front();
  EXPECT_EQ(e.name, "t");
  EXPECT_EQ(e.tensor.shape, (math::Shape{2, 1}));
  EXPECT_EQ(e.file_offset, bytes.size() - 8);
  EXPECT_EQ(e.tensor.data, bytes.data() + bytes.size() - 8);
}

TEST(Safetensors, ReadsScalarsEmptyTensorsAndMetadata) {
  const std::string bytes = File(
      Padded(R"({"__metadata__":{"format":"pt"},)"
             R"("e":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]},)"
             R"("s":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
             R"("z":{"dtype":"U8","shape":[2,0],"data_offsets":[8,8]}})"),
      std::string(8, '\2'));
  const auto parsed = ParseSafetensors(bytes, "x");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->size(), 3u);
}

TEST(Safetensors, RefusesHeadersThatCannotBe) {
  EXPECT_THAT(Refusal(""), HasSubstr("a file of 0 bytes"));
  EXPECT_THAT(Refusal("1234567"), HasSubstr("a file of 7 bytes"));
  std::string huge = File("{}", "");
  huge[7] = 0x10;  // 2^60 + 2
  EXPECT_THAT(Refusal(huge), HasSubstr("a header of 1152921504606846978"));
  std::string longer = File("{}", "");
  longer[0] = 100;
  EXPECT_THAT(Refusal(longer), HasSubstr("100 bytes in a file of 10"));
  EXPECT_THAT(Refusal(File("", "")), HasSubstr("does not begin with {"));
  EXPECT_THAT(Refusal(File("[]", "")), HasSubstr("does not begin with {"));
  EXPECT_THAT(Refusal(File(" {}", "")), HasSubstr("does not begin with {"));
  EXPECT_THAT(Refusal(File("{\"a\":", "")), HasSubstr("no JSON at byte"));
  EXPECT_THAT(Refusal(File("{}x", "")), HasSubstr("no JSON at byte"));
  EXPECT_THAT(Refusal(File("{\"\xff\":1}", "")), HasSubstr("no JSON"));
  EXPECT_THAT(Refusal(File(R"({"a":3})", "")),
              HasSubstr("a number in place of a tensor"));
  EXPECT_THAT(Refusal(File(R"({"a":[]})", "")),
              HasSubstr("an array in place of a tensor"));
  EXPECT_THAT(Refusal(File(std::string(100000, '['), "")),
              HasSubstr("does not begin"));
  EXPECT_THAT(Refusal(File("{\"a\":" + std::string(100000, '['), "")),
              HasSubstr("an array in place of a tensor"));
}

TEST(Safetensors, RefusesTensorsThatCannotBe) {
  const std::string eight(8, '\0');
  const auto one = [&](const char* dtype, const char* shape,
                       const char* offsets) {
    return Refusal(File(OneTensor(dtype, shape, offsets), eight));
  };
  EXPECT_EQ(one("F32", "[2]", "[0,8]"), "");
  EXPECT_THAT(one("F33", "[2]", "[0,8]"), HasSubstr("\"t\" of dtype \"F33\""));
  EXPECT_THAT(one("F32", "[3]", "[0,8]"), HasSubstr("\"t\" of 8 bytes, want "
                                                    "12 bytes for F32 [3]"));
  EXPECT_THAT(one("F32", "[2]", "[8,0]"), HasSubstr("\"t\" at 8..0"));
  EXPECT_THAT(one("F32", "[3]", "[0,12]"), HasSubstr("within 0..8"));
  EXPECT_THAT(one("F32", "[4611686018427387904,4]", "[0,8]"),
              HasSubstr("\"t\" whose shape overflows"));
  EXPECT_THAT(one("F32", "[4294967296,4294967296,0]", "[0,0]"),
              HasSubstr("overflows"));
  EXPECT_THAT(one("U8", "[18446744073709551615]", "[0,8]"),
              HasSubstr("overflows"));
  EXPECT_THAT(one("F32", "[18446744073709551616]", "[0,8]"),
              HasSubstr("whole numbers"));
  EXPECT_THAT(one("F32", "[-2]", "[0,8]"), HasSubstr("the number -2"));
  EXPECT_THAT(one("F32", "[2.0]", "[0,8]"), HasSubstr("the number 2.0"));
  EXPECT_THAT(one("F32", "[1,1,1,1,2]", "[0,8]"),
              HasSubstr("more than 4 numbers in shape"));
  EXPECT_THAT(one("F32", "[2]", "[0,8,8]"),
              HasSubstr("more than 2 numbers in data_offsets"));
  EXPECT_THAT(one("F32", "[2]", "[0]"), HasSubstr("without two data_offsets"));
  EXPECT_THAT(one("F32", "[[2]]", "[0,8]"), HasSubstr("an array"));
  EXPECT_THAT(one("F32", "[{}]", "[0,8]"), HasSubstr("an object inside"));
  EXPECT_THAT(one("F32", "null", "[0,8]"), HasSubstr("null in \"shape\""));
  EXPECT_THAT(one("F32", "2", "[0,8]"), HasSubstr("a number in \"shape\""));
  EXPECT_THAT(one("F32", "[true]", "[0,8]"), HasSubstr("a truth value"));
  EXPECT_THAT(one("F32", "[\"2\"]", "[0,8]"), HasSubstr("a string"));
  EXPECT_THAT(Refusal(File(R"({"t":{}})", "")), HasSubstr("without dtype"));
  EXPECT_THAT(Refusal(File(R"({"t":{"dtype":["F32"]}})", "")),
              HasSubstr("an array in \"dtype\""));
  EXPECT_THAT(Refusal(File(R"({"t":{"dtype":"F32","more":1}})", "")),
              HasSubstr("unknown key \"more\""));
  EXPECT_THAT(Refusal(File(R"({"__metadata__":{"a":{}}})", "")),
              HasSubstr("an object inside __metadata__"));
}

TEST(Safetensors, RefusesKeysGivenTwice) {
  const std::string t =
      R"("t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  EXPECT_THAT(Refusal(File("{" + t + "," + t + "}", "1234")),
              HasSubstr("tensor \"t\" twice"));
  EXPECT_THAT(Refusal(File(R"({"__metadata__":{},"__metadata__":{}})", "")),
              HasSubstr("twice"));
  EXPECT_THAT(Refusal(File(R"({"__metadata__":{"a":"1","a":"2"}})", "")),
              HasSubstr("key \"a\" twice"));
  EXPECT_THAT(Refusal(File(R"({"t":{"dtype":"F32","dtype":"F16"}})", "")),
              HasSubstr("key \"dtype\" twice"));
}

TEST(Safetensors, RefusesLayoutsThatDoNotTile) {
  const auto two = [](int a0, int a1, int b0, int b1, size_t bytes) {
    return Refusal(File(
        Padded(absl::StrCat(
            R"({"a":{"dtype":"U8","shape":[)", a1 - a0,
            R"(],"data_offsets":[)", a0, ",", a1,
            R"(]},"b":{"dtype":"U8","shape":[)", b1 - b0,
            R"(],"data_offsets":[)", b0, ",", b1, "]}}")),
        std::string(bytes, '\0')));
  };
  EXPECT_EQ(two(0, 4, 4, 8, 8), "");
  EXPECT_EQ(two(4, 8, 0, 4, 8), "");  // any order in the header
  EXPECT_THAT(two(0, 4, 3, 7, 7), HasSubstr("\"b\" at 3..7, overlapping"));
  EXPECT_THAT(two(0, 4, 0, 4, 4), HasSubstr("overlapping"));
  EXPECT_THAT(two(0, 8, 2, 4, 8), HasSubstr("overlapping"));
  EXPECT_THAT(two(0, 4, 5, 9, 9), HasSubstr("\"b\" at 5..9, after a hole"));
  EXPECT_THAT(two(1, 4, 4, 8, 8), HasSubstr("\"a\" at 1..4, after a hole"));
  EXPECT_THAT(two(0, 4, 4, 8, 9), HasSubstr("1 bytes after the last tensor"));
  EXPECT_THAT(two(0, 4, 4, 8, 7), HasSubstr("want a range within 0..7"));
}

TEST(Safetensors, RefusesMisalignedTensors) {
  std::string header = OneTensor("F32", "[1]", "[0,4]");
  EXPECT_EQ(Refusal(File(header, "1234")), "");
  EXPECT_THAT(Refusal(File(header + " ", "1234")),
              HasSubstr("want a multiple of 4"));
}

TEST(Safetensors, ShowsNoControlCharactersOfNames) {
  const std::string message = Refusal(
      File(Padded(R"({"\u001b[31m\n":{"dtype":"X","shape":[],)"
                  R"("data_offsets":[0,0]}})"),
           ""));
  EXPECT_THAT(message, HasSubstr("\\x1b[31m\\n"));
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string bytes =
      File(OneTensor("F32", "[2]", "[0,8]"), std::string(8, '\1'));
  for (size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_NE(Refusal(bytes.substr(0, n)), "") << n;
  }
}

class SafetensorsFiles : public testing::Test {
 protected:
  const std::string folder_ = FreshFolder("safetensors");
  const std::string path_ = folder_ + "/w.safetensors";
};

TEST_F(SafetensorsFiles, WhatIsWrittenIsRead) {
  std::vector<float> a = {1, 2, 3, 4, 5, 6};
  std::vector<uint16_t> b = {7, 8, 9};
  const std::vector<NamedTensor> tensors = {
      {"b", {b.data(), math::DType::kBF16, math::Device::kCpu, {3}}},
      {"z \"quoted\" \u00e9",
       {a.data(), math::DType::kF32, math::Device::kCpu, {2, 3}}},
      {"empty", {nullptr, math::DType::kF32, math::Device::kCpu, {0, 3}}}};
  ASSERT_TRUE(WriteSafetensors(path_, tensors).ok());
  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->entries().size(), 3u);
  // The widest dtype first, then by name; the data begins at 64 n.
  EXPECT_EQ((*file)->entries()[0].name, "empty");
  EXPECT_EQ((*file)->entries()[2].name, "b");
  EXPECT_EQ((*file)->entries()[0].file_offset % 64, 0u);
  for (const NamedTensor& want : tensors) {
    const math::Tensor got = (*file)->Find(want.name);
    EXPECT_EQ(got.shape, want.tensor.shape);
    EXPECT_EQ(got.dtype, want.tensor.dtype);
    if (got.bytes() == 0) continue;
    EXPECT_EQ(memcmp(got.data, want.tensor.data, got.bytes()), 0);
  }
  EXPECT_TRUE((*file)->Find("absent").empty());
  // The same tensors in another order are the same bytes.
  const std::string again = folder_ + "/again.safetensors";
  ASSERT_TRUE(
      WriteSafetensors(again, {tensors[2], tensors[1], tensors[0]}).ok());
  EXPECT_EQ(*proto::ReadFile(path_, 1 << 20), *proto::ReadFile(again, 1 << 20));
  EXPECT_THAT(*proto::ListDirectory(folder_),
              testing::ElementsAre("again.safetensors", "w.safetensors"));
}

TEST_F(SafetensorsFiles, RefusesToWriteWhatCannotBeRead) {
  float x = 0;
  const math::Tensor t{&x, math::DType::kF32, math::Device::kCpu, {1}};
  EXPECT_FALSE(WriteSafetensors(path_, {{"a", t}, {"a", t}}).ok());
  EXPECT_FALSE(WriteSafetensors(path_, {{"__metadata__", t}}).ok());
  EXPECT_FALSE(WriteSafetensors(path_, {{"\xff", t}}).ok());
  EXPECT_FALSE(WriteSafetensors(path_, {{"a", math::Tensor()}}).ok());
  EXPECT_THAT(*proto::ListDirectory(folder_), testing::IsEmpty());
}

TEST_F(SafetensorsFiles, AFullDiskLeavesTheOldFileAndNothingElse) {
  float x = 3;
  const math::Tensor t{&x, math::DType::kF32, math::Device::kCpu, {1}};
  ASSERT_TRUE(WriteSafetensors(path_, {{"old", t}}).ok());
  std::vector<float> big(1 << 18);
  // A limit on the file's size ends a write as a full disk does.
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 64 << 10;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = WriteSafetensors(
      path_, {{"new", {big.data(), math::DType::kF32, math::Device::kCpu,
                       {1 << 18}}}});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
  EXPECT_THAT(*proto::ListDirectory(folder_),
              testing::ElementsAre("w.safetensors"));
  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok());
  EXPECT_FALSE((*file)->Find("old").empty());
}

TEST_F(SafetensorsFiles, OpenNamesThePath) {
  EXPECT_EQ(SafetensorsFile::Open(folder_ + "/none").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_FALSE(SafetensorsFile::Open(folder_).ok());
  std::ofstream(path_).flush();
  const auto empty = SafetensorsFile::Open(path_);
  ASSERT_FALSE(empty.ok());
  EXPECT_THAT(std::string(empty.status().message()), HasSubstr(path_));
}

}  // namespace
}  // namespace motet::package
