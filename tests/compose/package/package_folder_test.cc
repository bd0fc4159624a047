// SPDX-License-Identifier: Apache-2.0
#include "compose/package/package_folder.h"

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "compose/package/manifest.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/digest.h"
#include "proto/files.h"
#include "tests/compose/package/package_folder_fixture.h"

namespace motet::package {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class PackageFolder : public testing::Test {
 protected:
  absl::Status Open(const std::string& folder) {
    return OpenPackage(folder, f_.authority.certificate_pem).status();
  }
  std::string Refusal(const std::string& folder) {
    const absl::Status status = Open(folder);
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  }
  const Federation& f_ = TheFederation();
  Packages p_ = MakePackages();
  const std::string expert_id_ = "clinic.example/cardiology@1.2.0";
};

TEST_F(PackageFolder, WhatIsBuiltOpens) {
  EXPECT_EQ(p_.expert.manifest.id(), expert_id_);
  EXPECT_EQ(p_.expert.signer,
            "spiffe://choir/owner/clinic.example/node/one");
  EXPECT_EQ(p_.expert.manifest_sha256,
            proto::Hex(*proto::Sha256File(p_.expert_folder +
                                          "/manifest.json")));
  EXPECT_EQ(p_.expert.manifest.tensors_size(), 5 * kLayers);
  EXPECT_EQ(p_.expert.weights->Find("layers.1.router.row").shape,
            (math::Shape{kWidth}));
  EXPECT_THAT(*proto::ListDirectory(p_.expert_folder),
              testing::ElementsAre("README.md", "manifest.json", "model.sig",
                                   "weights.safetensors"));
  EXPECT_THAT(*proto::ListDirectory(p_.base_folder),
              testing::ElementsAre("README.md", "anchor.safetensors",
                                   "config.json", "manifest.json", "model.sig",
                                   "public.jsonl", "tokenizer.json",
                                   "weights.safetensors"));
  EXPECT_TRUE(CheckAgainstBase(p_.expert, p_.base).ok());
}

TEST_F(PackageFolder, OneChangedByteOfAnyFileIsRefused) {
  const auto names = proto::ListDirectory(p_.expert_folder);
  for (const std::string& name : *names) {
    const std::string path = p_.expert_folder + "/" + name;
    const std::string bytes = *proto::ReadFile(path, 1 << 20);
    std::string changed = bytes;
    changed[changed.size() / 2] ^= 1;
    ASSERT_TRUE(proto::WriteFileAtomic(path, changed).ok());
    EXPECT_FALSE(Open(p_.expert_folder).ok()) << name;
    ASSERT_TRUE(proto::WriteFileAtomic(path, bytes).ok());
  }
  EXPECT_TRUE(Open(p_.expert_folder).ok());
}

TEST_F(PackageFolder, MissingAndFurtherFilesAreRefused) {
  std::ofstream(p_.expert_folder + "/more.txt") << "x";
  EXPECT_THAT(Refusal(p_.expert_folder), HasSubstr("more.txt"));
  ASSERT_EQ(remove((p_.expert_folder + "/more.txt").c_str()), 0);
  ASSERT_EQ(remove((p_.expert_folder + "/README.md").c_str()), 0);
  EXPECT_THAT(Refusal(p_.expert_folder), HasSubstr("README.md"));
  EXPECT_EQ(Open(p_.expert_folder + "/none").code(),
            absl::StatusCode::kNotFound);
}

TEST_F(PackageFolder, AnotherAuthorityIsRefused) {
  const auto other = *proto::MakeAuthority("other");
  EXPECT_FALSE(OpenPackage(p_.expert_folder, other.certificate_pem).ok());
}

TEST_F(PackageFolder, SignedLiesAreRefusedAllAtOnce) {
  const std::string weights = proto::Hex(
      *proto::Sha256File(p_.expert_folder + "/weights.safetensors"));
  EditManifest(p_.expert_folder, weights, std::string(64, '0'));
  EditManifest(p_.expert_folder, "\"advertising\"", "\"a\\u001b[31m\"");
  EditManifest(p_.expert_folder, "\"layers\": 2", "\"layers\": 3");
  EditManifest(p_.expert_folder, "\"spdx\": \"CC-BY-4.0\"",
               "\"not_after\": \"2027-02-30\"");
  SignAgain(p_.expert_folder, expert_id_, f_.clinic);
  EXPECT_THAT(
      Refusal(p_.expert_folder),
      AllOf(HasSubstr("file \"weights.safetensors\" has sha256 " + weights),
            HasSubstr("forbidden_purposes is \"a\\x1b[31m\""),
            HasSubstr("domain.anchored has 2 layers, want 3"),
            HasSubstr("tensors lacks layers.2.router.row"),
            HasSubstr("licence.not_after is \"2027-02-30\"")));
}

TEST_F(PackageFolder, TensorsAreCheckedOneByOne) {
  const std::string& digest = p_.expert.manifest.tensors(3).sha256();
  EditManifest(p_.expert_folder, digest, std::string(64, 'f'));
  SignAgain(p_.expert_folder, expert_id_, f_.clinic);
  EXPECT_THAT(Refusal(p_.expert_folder),
              AllOf(HasSubstr(p_.expert.manifest.tensors(3).name()),
                    HasSubstr("has sha256 " + digest), HasSubstr("1 defect")));
}

TEST_F(PackageFolder, OnlyTheOwnerMaySign) {
  SignAgain(p_.expert_folder, expert_id_, f_.bank);
  EXPECT_THAT(Refusal(p_.expert_folder),
              HasSubstr("signed by spiffe://choir/owner/bank.example/node/one"
                        ", want a node of the owner clinic.example"));
  SignAgain(p_.base_folder, "choir/base@1.0.0", f_.clinic);
  EXPECT_THAT(Refusal(p_.base_folder),
              HasSubstr("want a coordinator of the federation choir"));
  SignAgain(p_.expert_folder, "clinic.example/other@1.0.0", f_.clinic);
  EXPECT_THAT(Refusal(p_.expert_folder), HasSubstr("signed as"));
}

TEST_F(PackageFolder, ABaseMustBeWhatItSays) {
  EditManifest(p_.base_folder, "\"width\": 4", "\"width\": 5");
  std::vector<float> c(kWidth * kWidth);
  const std::string anchor = p_.base_folder + "/anchor.safetensors";
  ASSERT_TRUE(WriteSafetensors(
                  anchor, {{"layers.0.mean",
                            {c.data(), math::DType::kF32, math::Device::kCpu,
                             {kWidth * kWidth}}}})
                  .ok());
  SignAgain(p_.base_folder, "choir/base@1.0.0", f_.coordinator);
  EXPECT_THAT(Refusal(p_.base_folder),
              AllOf(HasSubstr("model.width is 5, config.json has 4"),
                    HasSubstr("anchor tensor \"layers.0.mean\""),
                    HasSubstr("lacks layers.1.precision"),
                    HasSubstr("file \"anchor.safetensors\" has")));
}

TEST_F(PackageFolder, AnExpertOfAnotherBaseIsRefusedWithAllReasons) {
  OpenedPackage other = p_.base;
  other.manifest_sha256 = std::string(64, 'a');
  other.manifest.mutable_model()->set_ffn_width(99);
  other.manifest.mutable_tensors(0)->set_sha256(std::string(64, 'b'));
  const absl::Status status = CheckAgainstBase(p_.expert, other);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("base.manifest_sha256"),
                    HasSubstr("model.ffn_width is 6, want 99"),
                    HasSubstr("frozen_sha256"), Not(HasSubstr("model.width")),
                    HasSubstr("3 defects")));
  EXPECT_FALSE(CheckAgainstBase(p_.base, p_.expert).ok());
}

TEST_F(PackageFolder, FrozenDigestIsTheDocumentedOne) {
  v1::ExpertManifest m;
  for (const char* name : {"b", "a"}) {
    v1::TensorDigest* t = m.add_tensors();
    t->set_name(name);
    t->set_sha256(std::string(64, name[0]));
  }
  EXPECT_EQ(FrozenDigest(m),
            proto::Hex(proto::Sha256(
                absl::StrCat("a ", std::string(64, 'a'), "\n", "b ",
                             std::string(64, 'b'), "\n"))));
}

TEST_F(PackageFolder, CutsAreWhereTensorsBegin) {
  const auto cuts = ChunkCutsOf(p_.base_folder);
  ASSERT_TRUE(cuts.ok());
  ASSERT_EQ(cuts->size(), 2u);
  const std::vector<uint64_t>& weights = cuts->at("weights.safetensors");
  ASSERT_EQ(weights.size(), p_.base.weights->entries().size());
  for (size_t i = 0; i < weights.size(); ++i) {
    EXPECT_EQ(weights[i], p_.base.weights->entries()[i].file_offset);
  }
  EXPECT_TRUE(std::is_sorted(weights.begin(), weights.end()));
}

TEST_F(PackageFolder, BuildingLeavesNothingAfterAnError) {
  TensorNumbers numbers;
  const std::string parent = FreshFolder("build");
  const std::string folder = parent + "/p";
  PackageContent content = ExpertContent(p_.base, numbers);
  content.manifest.set_id("no id");
  content.manifest.clear_domain();
  absl::Status status = BuildPackage(folder, content, f_.clinic.private_pem,
                                     f_.clinic.certificate_pem);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("id is \"no id\""), HasSubstr("domain.domain")));
  content = ExpertContent(p_.base, numbers);
  content.files["model.sig"] = "x";
  EXPECT_FALSE(BuildPackage(folder, content, f_.clinic.private_pem,
                            f_.clinic.certificate_pem)
                   .ok());
  content.files.clear();
  content.files["../escape"] = "x";
  EXPECT_FALSE(BuildPackage(folder, content, f_.clinic.private_pem,
                            f_.clinic.certificate_pem)
                   .ok());
  content.files.clear();
  EXPECT_FALSE(BuildPackage(folder, content, "no key", "no certificate").ok());
  EXPECT_EQ(BuildPackage(p_.base_folder, content, f_.clinic.private_pem,
                         f_.clinic.certificate_pem)
                .code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(*proto::ListDirectory(parent), testing::IsEmpty());
}

TEST_F(PackageFolder, AFullDiskLeavesNothing) {
  TensorNumbers numbers;
  const std::string parent = FreshFolder("full");
  PackageContent content = ExpertContent(p_.base, numbers);
  content.files["big.bin"] = std::string(1 << 20, 'x');
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 64 << 10;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status =
      BuildPackage(parent + "/p", content, f_.clinic.private_pem,
                   f_.clinic.certificate_pem);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(*proto::ListDirectory(parent), testing::IsEmpty());
}

}  // namespace
}  // namespace motet::package
