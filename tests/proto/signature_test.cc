// SPDX-License-Identifier: Apache-2.0
// Round trips, then everything that must not pass: changed bytes, changed
// folders, hostile bundles that are properly signed.
#include "proto/signature.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "fixture.h"
#include "proto/files.h"
#include "proto/limits.h"
#include "proto/openssl.h"
#include "proto/signature_layout.h"

namespace motet::proto {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kId[] = "acme/code@1.0.0";

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

class SignatureTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(MakeDirectories(package_ + "/docs").ok());
    Write("manifest.json", "{\"id\": \"acme/code@1.0.0\"}");
    Write("weights.safetensors", std::string("\0\1\2\3", 4));
    Write("docs/card", "card");
    Write("docs.txt", "");
    Sign();
  }
  void Write(const std::string& path, const std::string& bytes) {
    Put(package_ + "/" + path, bytes);
    if (path != "model.sig") contents_[path] = bytes;
  }
  std::vector<SignedFile> Files() const {
    std::vector<SignedFile> files;
    for (const auto& [path, bytes] : contents_) {
      files.push_back({path, Sha256(bytes)});
    }
    return files;
  }
  void Sign() {
    const auto bytes = SignFiles(kId, Files(), signer_.private_pem,
                                 signer_.certificate_pem);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    model_sig_ = *bytes;
    Write("model.sig", model_sig_);
  }
  absl::StatusOr<SignatureInfo> Folder() const {
    return VerifyPackageFolder(package_, authority_.certificate_pem);
  }
  absl::StatusOr<SignatureInfo> Bytes(const std::string& model_sig) const {
    return VerifySignature(model_sig, authority_.certificate_pem);
  }
  // Changes the statement and signs it anew with the member's key, as a
  // hostile member could.
  std::string Resigned(const std::function<void(Json&)>& change,
                       const std::string& payload_type = kPayloadType) const {
    Json bundle = Json::parse(model_sig_);
    std::string payload;
    absl::Base64Unescape(
        bundle["dsseEnvelope"]["payload"].get<std::string>(), &payload);
    Json statement = Json::parse(payload);
    change(statement);
    payload = statement.dump();
    bundle["dsseEnvelope"]["payload"] = absl::Base64Escape(payload);
    bundle["dsseEnvelope"]["payloadType"] = payload_type;
    bundle["dsseEnvelope"]["signatures"][0]["sig"] =
        absl::Base64Escape(SignRaw(absl::StrCat(
            "DSSEv1 ", payload_type.size(), " ", payload_type, " ",
            payload.size(), " ", payload)));
    return bundle.dump();
  }
  std::string SignRaw(const std::string& bytes,
                      const EVP_MD* digest = EVP_sha256()) const {
    const auto key = ReadPrivateKey("test", signer_.private_pem);
    const DigestContextPtr context(EVP_MD_CTX_new());
    EVP_DigestSignInit(context.get(), nullptr, digest, nullptr, key->get());
    unsigned char signature[128];
    size_t size = sizeof signature;
    EVP_DigestSign(context.get(), signature, &size,
                   reinterpret_cast<const unsigned char*>(bytes.data()),
                   bytes.size());
    return std::string(reinterpret_cast<char*>(signature), size);
  }
  // One file of a digest of its own, with the root digest brought in line.
  static void SetFiles(Json& statement, const std::vector<std::string>& paths) {
    Json& resources = statement["predicate"]["resources"];
    resources = Json::array();
    Sha256Stream root;
    for (const std::string& path : paths) {
      const Digest digest = Sha256(path);
      root.Update(ToBytes(digest));
      resources.push_back({{"name", path},
                           {"algorithm", "sha256"},
                           {"digest", Hex(digest)}});
    }
    statement["subject"][0]["digest"]["sha256"] = Hex(root.Finish());
  }

  TempFolder folder_;
  const std::string package_ = folder_ / "package";
  std::map<std::string, std::string> contents_;
  Authority authority_ = NewAuthority("choir");
  Member signer_ = NewMember(authority_, Node("acme", "n1"));
  std::string model_sig_;
};

TEST_F(SignatureTest, RoundTrip) {
  const auto info = Folder();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->name, kId);
  ASSERT_EQ(info->files.size(), 4u);
  // By parts: a folder's files stand before longer names with its prefix.
  EXPECT_EQ(info->files[0].path, "docs/card");
  EXPECT_EQ(info->files[1].path, "docs.txt");
  EXPECT_EQ(info->files[2].path, "manifest.json");
  EXPECT_EQ(info->files[2].sha256, Sha256(contents_["manifest.json"]));
  EXPECT_EQ(InspectCertificate(info->certificate_pem)->id.owner, "acme");
}

TEST_F(SignatureTest, LayoutIsThatOfModelSigning) {
  const Json bundle = Json::parse(model_sig_);
  EXPECT_EQ(bundle["mediaType"],
            "application/vnd.dev.sigstore.bundle.v0.3+json");
  EXPECT_EQ(bundle["dsseEnvelope"]["payloadType"],
            "application/vnd.in-toto+json");
  std::string payload;
  ASSERT_TRUE(absl::Base64Unescape(
      bundle["dsseEnvelope"]["payload"].get<std::string>(), &payload));
  const Json statement = Json::parse(payload);
  EXPECT_EQ(statement["_type"], "https://in-toto.io/Statement/v1");
  EXPECT_EQ(statement["predicateType"],
            "https://model_signing/signature/v1.0");
  EXPECT_EQ(statement["predicate"]["serialization"]["method"], "files");
  EXPECT_EQ(statement["predicate"]["resources"][1]["name"], "docs.txt");
  EXPECT_EQ(statement["predicate"]["resources"][1]["digest"],
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

// As model_signing 1.1.1 writes it (docs/signatures.md): blanks, another order
// of keys, more ignored paths.
TEST_F(SignatureTest, StatementWithBlanksAndTheAuthorityInTheChain) {
  Json bundle = Json::parse(Resigned([](Json& statement) {
    statement["predicate"]["serialization"]["ignore_paths"] = {"model.sig",
                                                               ".git"};
  }));
  const auto authority = ReadCertificate("test", authority_.certificate_pem);
  unsigned char* der = nullptr;
  const int size = i2d_X509(authority->get(), &der);
  ASSERT_GT(size, 0);
  bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]
      .push_back({{"rawBytes",
                   absl::Base64Escape(absl::string_view(
                       reinterpret_cast<char*>(der),
                       static_cast<size_t>(size)))}});
  OPENSSL_free(der);
  EXPECT_TRUE(Bytes(bundle.dump(2)).ok()) << Bytes(bundle.dump(2)).status();
}

TEST_F(SignatureTest, EveryChangedByteOfEveryFileIsDetected) {
  contents_["model.sig"] = model_sig_;
  int flips = 0;
  for (const auto& [path, bytes] : contents_) {
    for (size_t i = 0; i < bytes.size(); ++i) {
      // The lowest bit, the one between capitals and small letters, the top.
      for (const int bit : {0x01, 0x20, 0x80}) {
        std::string bad = bytes;
        bad[i] = static_cast<char>(bad[i] ^ bit);
        ++flips;
        if (path == "model.sig") {
          // The folder's other files do not matter to this.
          ASSERT_FALSE(Bytes(bad).ok()) << path << " " << i << " " << bit;
        } else {
          std::ofstream(package_ + "/" + path, std::ios::binary) << bad;
          ASSERT_EQ(Folder().status().code(), absl::StatusCode::kDataLoss)
              << path << " " << i << " " << bit;
        }
      }
    }
    std::ofstream(package_ + "/" + path, std::ios::binary) << bytes;
  }
  EXPECT_GT(flips, 3 * 1500);
  EXPECT_TRUE(Folder().ok());
}

TEST_F(SignatureTest, EveryTruncationOfTheSignatureIsDetected) {
  for (size_t size = 0; size < model_sig_.size(); ++size) {
    ASSERT_FALSE(Bytes(model_sig_.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(Bytes(model_sig_ + "x").ok());
}

TEST_F(SignatureTest, AllDifferencesStandInOneMessage) {
  Write("manifest.json", "changed");
  ASSERT_EQ(unlink((package_ + "/docs.txt").c_str()), 0);
  Write("docs/extra", "x");
  ASSERT_EQ(symlink("manifest.json", (package_ + "/link").c_str()), 0);
  const auto info = Folder();
  ASSERT_EQ(info.status().code(), absl::StatusCode::kDataLoss);
  const std::string text = Message(info.status());
  EXPECT_THAT(text, HasSubstr("4 defects"));
  EXPECT_THAT(text, HasSubstr("manifest.json is changed"));
  EXPECT_THAT(text, HasSubstr("docs.txt is missing"));
  EXPECT_THAT(text, HasSubstr("docs/extra is not signed"));
  EXPECT_THAT(text, HasSubstr("link is a link"));
}

TEST_F(SignatureTest, LinkInPlaceOfASignedFileIsRefused) {
  Put(folder_ / "outside", contents_["manifest.json"]);
  ASSERT_EQ(unlink((package_ + "/manifest.json").c_str()), 0);
  ASSERT_EQ(symlink((folder_ / "outside").c_str(),
                    (package_ + "/manifest.json").c_str()),
            0);
  EXPECT_FALSE(Folder().ok());
}

TEST_F(SignatureTest, LinkInPlaceOfTheSignatureIsRefused) {
  Put(folder_ / "outside", model_sig_);
  ASSERT_EQ(unlink((package_ + "/model.sig").c_str()), 0);
  EXPECT_EQ(Folder().status().code(), absl::StatusCode::kNotFound);
  ASSERT_EQ(symlink((folder_ / "outside").c_str(),
                    (package_ + "/model.sig").c_str()),
            0);
  EXPECT_EQ(Folder().status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SignatureTest, FolderOfTooManyFilesIsRefused) {
  for (int i = 0; i < 3 * kMaxPackageFiles; ++i) {
    Put(absl::StrCat(package_, "/extra", i), "");
  }
  EXPECT_EQ(Folder().status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(SignatureTest, SignatureOfAnotherAuthorityIsRefused) {
  const auto info =
      VerifyPackageFolder(package_, NewAuthority("choir").certificate_pem);
  EXPECT_EQ(info.status().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(SignatureTest, ExpiredCertificateIsRefusedUnlessAskedForThen) {
  const int64_t later = time(nullptr) + int64_t{400} * 24 * 60 * 60;
  EXPECT_EQ(VerifySignature(model_sig_, authority_.certificate_pem, later)
                .status()
                .code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(VerifySignature(model_sig_, authority_.certificate_pem,
                              time(nullptr) + 1000)
                  .ok());
}

TEST_F(SignatureTest, CertificateOfAnotherKeyDoesNotSign) {
  const Member other = NewMember(authority_, Node("acme", "n2"));
  EXPECT_EQ(SignFiles(kId, Files(), other.private_pem,
                      signer_.certificate_pem)
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  // And swapped in afterwards it does not verify.
  Json bundle = Json::parse(model_sig_);
  const auto mine = SignFiles(kId, Files(), other.private_pem,
                              other.certificate_pem);
  ASSERT_TRUE(mine.ok());
  bundle["verificationMaterial"] =
      Json::parse(*mine)["verificationMaterial"];
  const auto info = Bytes(bundle.dump());
  ASSERT_EQ(info.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(Message(info.status()), HasSubstr("does not fit"));
}

TEST_F(SignatureTest, RegistriesMayNotSign) {
  const Member registry = NewMember(authority_, Server("registry"));
  EXPECT_EQ(SignFiles(kId, Files(), registry.private_pem,
                      registry.certificate_pem)
                .status()
                .code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(SignatureTest, WhatIsNotSignedByTheRulesIsNotSigned) {
  const auto sign = [&](const std::string& name,
                        const std::vector<SignedFile>& files) {
    return SignFiles(name, files, signer_.private_pem,
                     signer_.certificate_pem);
  };
  EXPECT_FALSE(sign("", Files()).ok());
  EXPECT_FALSE(sign("a\nb", Files()).ok());
  EXPECT_FALSE(sign(std::string(kMaxIdLength + 1, 'a'), Files()).ok());
  EXPECT_FALSE(sign(kId, {}).ok());
  EXPECT_FALSE(sign(kId, {{"a", Digest{}}, {"a", Digest{}}}).ok());
  EXPECT_FALSE(sign(kId, {{"model.sig", Digest{}}}).ok());
  for (const char* path : {"", "/a", "a/", "a//b", "..", "a/../b", "./a",
                           "a\\b", "a\nb", "\xc3\xa4"}) {
    EXPECT_FALSE(sign(kId, {{path, Digest{}}}).ok()) << path;
    EXPECT_FALSE(CheckPackagePath("test", path).ok()) << path;
  }
  std::vector<SignedFile> many;
  for (int64_t i = 0; i <= kMaxPackageFiles; ++i) {
    many.push_back({absl::StrCat("f", i), Digest{}});
  }
  EXPECT_FALSE(sign(kId, many).ok());
  many.pop_back();
  EXPECT_TRUE(sign(kId, many).ok());
}

TEST_F(SignatureTest, HostileStatementsAreRefusedThoughSigned) {
  ASSERT_TRUE(Bytes(Resigned([](Json&) {})).ok());
  ASSERT_TRUE(
      Bytes(Resigned([](Json& s) { SetFiles(s, {"b", "a"}); })).ok());
  const struct {
    const char* what;
    std::function<void(Json&)> change;
  } cases[] = {
      {"traversal", [](Json& s) { SetFiles(s, {"../a"}); }},
      {"deep traversal", [](Json& s) { SetFiles(s, {"a/../../b"}); }},
      {"absolute", [](Json& s) { SetFiles(s, {"/etc/passwd"}); }},
      {"backslash", [](Json& s) { SetFiles(s, {"a\\..\\b"}); }},
      {"twice", [](Json& s) { SetFiles(s, {"a", "b", "a"}); }},
      {"itself", [](Json& s) { SetFiles(s, {"model.sig"}); }},
      {"no files", [](Json& s) { SetFiles(s, {}); }},
      {"too many",
       [](Json& s) {
         std::vector<std::string> paths;
         for (int64_t i = 0; i <= kMaxPackageFiles; ++i) {
           paths.push_back(absl::StrCat("f", i));
         }
         SetFiles(s, paths);
       }},
      {"NUL", [](Json& s) { SetFiles(s, {std::string("a\0b", 3)}); }},
      {"root digest",
       [](Json& s) {
         s["subject"][0]["digest"]["sha256"] = Hex(Sha256("other"));
       }},
      {"no subject", [](Json& s) { s["subject"] = Json::array(); }},
      {"two subjects",
       [](Json& s) { s["subject"].push_back(s["subject"][0]); }},
      {"long name",
       [](Json& s) {
         s["subject"][0]["name"] = std::string(kMaxIdLength + 1, 'n');
       }},
      {"statement type", [](Json& s) { s["_type"] = "other"; }},
      {"predicate type",
       [](Json& s) {
         s["predicateType"] = "https://model_signing/Digests/v0.1";
       }},
      {"shards",
       [](Json& s) { s["predicate"]["serialization"]["method"] = "shards"; }},
      {"hash type",
       [](Json& s) { s["predicate"]["serialization"]["hash_type"] = "md5"; }},
      {"algorithm",
       [](Json& s) {
         s["predicate"]["resources"][0]["algorithm"] = "blake2b";
       }},
      {"digest",
       [](Json& s) { s["predicate"]["resources"][0]["digest"] = "00"; }},
      {"number for text",
       [](Json& s) { s["predicate"]["resources"][0]["name"] = 7; }},
      {"text for list",
       [](Json& s) { s["predicate"]["resources"] = "manifest.json"; }},
      {"no predicate", [](Json& s) { s.erase("predicate"); }},
      {"list", [](Json& s) { s = Json::array(); }},
  };
  for (const auto& c : cases) {
    const auto info = Bytes(Resigned(c.change));
    EXPECT_EQ(info.status().code(), absl::StatusCode::kInvalidArgument)
        << c.what << ": " << info.status();
    EXPECT_THAT(Message(info.status()), HasSubstr("[signature] got "))
        << c.what;
  }
}

TEST_F(SignatureTest, OtherPayloadTypeIsRefusedThoughSigned) {
  EXPECT_EQ(Bytes(Resigned([](Json&) {}, "text/plain")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SignatureTest, OtherDigestAlgorithmIsRefused) {
  Json bundle = Json::parse(model_sig_);
  std::string payload;
  absl::Base64Unescape(bundle["dsseEnvelope"]["payload"].get<std::string>(),
                       &payload);
  const auto with = [&](const std::string& signature) {
    bundle["dsseEnvelope"]["signatures"][0]["sig"] =
        absl::Base64Escape(signature);
    return Bytes(bundle.dump()).status();
  };
  EXPECT_TRUE(with(SignRaw(PreAuthentication(payload))).ok());
  EXPECT_FALSE(with(SignRaw(PreAuthentication(payload), EVP_sha512())).ok());
  // The payload itself, without the envelope's encoding.
  EXPECT_FALSE(with(SignRaw(payload)).ok());
  EXPECT_FALSE(with("").ok());
}

TEST_F(SignatureTest, HostileBundlesAreRefused) {
  const struct {
    const char* what;
    std::function<void(Json&)> change;
  } cases[] = {
      {"media type", [](Json& b) { b["mediaType"] = "x"; }},
      {"unknown key", [](Json& b) { b["note"] = "trust me"; }},
      {"no envelope", [](Json& b) { b.erase("dsseEnvelope"); }},
      {"two signatures",
       [](Json& b) {
         Json& list = b["dsseEnvelope"]["signatures"];
         list.push_back(list[0]);
       }},
      {"no signature",
       [](Json& b) { b["dsseEnvelope"]["signatures"] = Json::array(); }},
      {"key id",
       [](Json& b) { b["dsseEnvelope"]["signatures"][0]["keyid"] = "x"; }},
      {"algorithm",
       [](Json& b) { b["dsseEnvelope"]["signatures"][0]["alg"] = "none"; }},
      {"base64 with blanks",
       [](Json& b) {
         b["dsseEnvelope"]["payload"] =
             b["dsseEnvelope"]["payload"].get<std::string>() + "\n";
       }},
      {"log entries",
       [](Json& b) { b["verificationMaterial"]["tlogEntries"] = {1}; }},
      {"bare key",
       [](Json& b) {
         b["verificationMaterial"] = {{"publicKey", {{"hint", "x"}}}};
       }},
      {"no certificates",
       [](Json& b) {
         b["verificationMaterial"]["x509CertificateChain"]["certificates"] =
             Json::array();
       }},
      {"many certificates",
       [](Json& b) {
         Json& list =
             b["verificationMaterial"]["x509CertificateChain"]["certificates"];
         list.push_back(list[0]);
         list.push_back(list[0]);
       }},
      {"null", [](Json& b) { b = nullptr; }},
  };
  for (const auto& c : cases) {
    Json bundle = Json::parse(model_sig_);
    c.change(bundle);
    EXPECT_EQ(Bytes(bundle.dump()).status().code(),
              absl::StatusCode::kInvalidArgument)
        << c.what;
  }
  // A second certificate that is not the authority.
  Json bundle = Json::parse(model_sig_);
  Json& list =
      bundle["verificationMaterial"]["x509CertificateChain"]["certificates"];
  list.push_back(list[0]);
  EXPECT_EQ(Bytes(bundle.dump()).status().code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(SignatureTest, RepeatedKeysAreRefused) {
  std::string twice = model_sig_;
  twice.insert(1, "\"mediaType\":\"x\",");
  const auto info = Bytes(twice);
  EXPECT_EQ(info.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(info.status()), HasSubstr("twice"));
}

TEST_F(SignatureTest, TooLargeAndTooDeepAreRefused) {
  EXPECT_EQ(Bytes(std::string(kMaxSignatureBytes + 1, ' ')).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(Bytes(std::string(kMaxSignatureBytes, '[')).ok());
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  EXPECT_FALSE(Bytes(deep).ok());
  deep += "1" + std::string(100'000, '}');
  EXPECT_FALSE(Bytes(deep).ok());
}

}  // namespace
}  // namespace motet::proto
