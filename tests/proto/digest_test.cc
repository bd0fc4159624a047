// SPDX-License-Identifier: Apache-2.0
#include "proto/digest.h"

#include <gtest/gtest.h>

#include "fixture.h"

namespace motet::proto {
namespace {

// FIPS 180-4 examples and the empty message.
struct Vector {
  std::string message;
  const char* hex;
};
const Vector kVectors[] = {
    {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc",
     "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    {std::string(1'000'000, 'a'),
     "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
};

TEST(DigestTest, KnownVectorsInMemoryAndInPieces) {
  for (const Vector& v : kVectors) {
    EXPECT_EQ(Hex(Sha256(v.message)), v.hex);
    Sha256Stream stream;
    for (size_t at = 0; at < v.message.size(); at += 1021) {
      stream.Update(absl::string_view(v.message).substr(at, 1021));
    }
    Sha256Stream moved = std::move(stream);
    EXPECT_EQ(Hex(moved.Finish()), v.hex);
  }
}

TEST(DigestTest, FilesOfEverySizeAroundThePiece) {
  const TempFolder folder;
  for (const size_t size : {0u, 1u, (1u << 20) - 1, 1u << 20, (1u << 20) + 1}) {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 31);
    Put(folder / "file", bytes);
    const auto digest = Sha256File(folder / "file");
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(*digest, Sha256(bytes)) << size;
  }
}

TEST(DigestTest, FileThatIsNotThereAndFolder) {
  const TempFolder folder;
  const auto missing = Sha256File(folder / "nothing");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.status().message().find("nothing"),
            absl::string_view::npos);
  EXPECT_EQ(Sha256File(folder.path()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(DigestTest, HexAndBytesRoundTrip) {
  const Digest digest = Sha256("motet");
  const auto from_hex = DigestFromHex(Hex(digest));
  ASSERT_TRUE(from_hex.ok());
  EXPECT_EQ(*from_hex, digest);
  const auto from_bytes = DigestFromBytes(ToBytes(digest));
  ASSERT_TRUE(from_bytes.ok());
  EXPECT_EQ(*from_bytes, digest);
  EXPECT_EQ(Hex(absl::string_view("\x00\xff\x7f", 3)), "00ff7f");
}

TEST(DigestTest, MalformedHexAndBytesAreRefused) {
  const std::string good = Hex(Sha256(""));
  std::string upper = good;
  upper[0] = 'E';
  std::string odd = good;
  odd[63] = 'g';
  for (const std::string& bad :
       {std::string(), upper, odd, good.substr(1), good + "0"}) {
    EXPECT_EQ(DigestFromHex(bad).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
  EXPECT_FALSE(DigestFromBytes(std::string(31, 'x')).ok());
  EXPECT_FALSE(DigestFromBytes(std::string(33, 'x')).ok());
}

}  // namespace
}  // namespace motet::proto
