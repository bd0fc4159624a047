// SPDX-License-Identifier: Apache-2.0
// Packages of kind dense: only what differs from the base travels, the rest
// is held against it by digest.
#include "compose/package/manifest_dense.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "compose/package/huggingface.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_branch.h"
#include "gmock/gmock.h"
#include "proto/files.h"
#include "tests/compose/package/package_folder_fixture.h"

namespace motet::package {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class Dense : public testing::Test {
 protected:
  Dense() {
    for (const SafetensorsFile::Entry& e : p_.base.weights->entries()) {
      branch_.push_back({e.name, e.tensor});
    }
    // Two tensors were trained.
    for (NamedTensor& t : branch_) {
      if (t.name != kQ && t.name != kNorm) continue;
      t.tensor = numbers_.New(t.tensor.shape, 77);
    }
  }
  PackageContent Content() const {
    PackageContent content;
    v1::ExpertManifest& m = content.manifest;
    m.set_id("clinic.example/whole@1.0.0");
    m.set_kind("dense");
    *m.mutable_base() = ReferenceTo(p_.base);
    *m.mutable_model() = p_.base.manifest.model();
    m.mutable_domain()->set_domain("cardiology");
    DenseContent split = SplitDense(branch_, p_.base.manifest);
    content.weights = split.weights;
    for (const auto& t : split.base_tensors) *m.add_base_tensors() = t;
    content.readme = "# whole\n";
    return content;
  }
  absl::StatusOr<OpenedPackage> BuildAndOpen(const PackageContent& content) {
    const std::string folder = FreshFolder("dense") + "/package";
    const absl::Status built = BuildPackage(
        folder, content, f_.clinic.private_pem, f_.clinic.certificate_pem);
    if (!built.ok()) return built;
    return OpenPackage(folder, f_.authority.certificate_pem);
  }

  static constexpr char kQ[] = "model.layers.0.self_attn.q_proj.weight";
  static constexpr char kNorm[] = "model.norm.weight";
  const Federation& f_ = TheFederation();
  Packages p_ = MakePackages();
  TensorNumbers numbers_;
  std::vector<NamedTensor> branch_;
};

TEST_F(Dense, OnlyWhatDiffersTravels) {
  const auto opened = BuildAndOpen(Content());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->weights->entries().size(), 2u);
  EXPECT_EQ(opened->manifest.base_tensors_size(),
            p_.base.manifest.tensors_size() - 2);
  const absl::Status fits = CheckAgainstBase(*opened, p_.base);
  EXPECT_TRUE(fits.ok()) << fits;
  for (const NamedTensor& t : branch_) {
    const math::Tensor found =
        DenseTensor(*opened->weights, *p_.base.weights, t.name);
    ASSERT_FALSE(found.empty()) << t.name;
    EXPECT_EQ(0, memcmp(found.data, t.tensor.data, t.tensor.bytes()))
        << t.name;
  }
}

TEST_F(Dense, AllWeightsAndNoWeightsAreBranchesToo) {
  PackageContent all = Content();
  all.manifest.clear_base_tensors();
  all.weights = branch_;
  auto opened = BuildAndOpen(all);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(CheckAgainstBase(*opened, p_.base).ok());

  branch_.clear();
  for (const SafetensorsFile::Entry& e : p_.base.weights->entries()) {
    branch_.push_back({e.name, e.tensor});
  }
  opened = BuildAndOpen(Content());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(opened->weights->entries().empty());
  EXPECT_TRUE(CheckAgainstBase(*opened, p_.base).ok());
}

TEST_F(Dense, WhatIsNoBranchIsNamed) {
  const auto opened = BuildAndOpen(Content());
  ASSERT_TRUE(opened.ok());
  OpenedPackage other = *opened;
  v1::ExpertManifest& m = other.manifest;
  v1::TensorDigest& stays = *m.mutable_base_tensors(0);
  stays.set_sha256(std::string(64, 'e'));
  m.mutable_base_tensors(1)->set_name("model.extra");
  m.mutable_tensors(0)->add_shape(2);
  m.mutable_model()->set_ffn_width(5);
  const std::string message(CheckAgainstBase(other, p_.base).message());
  EXPECT_THAT(message,
              AllOf(HasSubstr(stays.name()), HasSubstr("should be the base's"),
                    HasSubstr("\"model.extra\" is not one of the base's"),
                    HasSubstr("is missing"), HasSubstr("model.ffn_width"),
                    HasSubstr(m.tensors(0).name())));
}

TEST_F(Dense, RulesOfTheKind) {
  const auto opened = BuildAndOpen(Content());
  ASSERT_TRUE(opened.ok());
  const auto after = [&](const auto& change) {
    v1::ExpertManifest m = opened->manifest;
    change(m);
    return absl::StrJoin(CheckManifest(m), "; ");
  };
  using M = v1::ExpertManifest;
  EXPECT_THAT(after([](M&) {}), IsEmpty());
  EXPECT_THAT(after([](M& m) { m.clear_base(); }), HasSubstr("base.id"));
  EXPECT_THAT(after([](M& m) { m.set_frozen_sha256(std::string(64, 'a')); }),
              HasSubstr("a dense has a frozen_sha256"));
  EXPECT_THAT(after([](M& m) { *m.add_tensors() = m.base_tensors(0); }),
              HasSubstr("twice"));
  EXPECT_THAT(after([](M& m) { m.mutable_base_tensors(0)->set_sha256("x"); }),
              HasSubstr("64 lower-case hex digits"));
  EXPECT_THAT(after([](M& m) { m.mutable_tensors(0)->set_dtype("I64"); }),
              HasSubstr("want F32, BF16 or F16"));
  M ffn = p_.expert.manifest;
  *ffn.add_base_tensors() = opened->manifest.base_tensors(0);
  EXPECT_THAT(absl::StrJoin(CheckManifest(ffn), "; "),
              HasSubstr("want it in kinds that are whole models"));
}

// Kinds attention_ffn and sized are whole models as dense is; sized may have
// FFNs of its own width.
TEST_F(Dense, OtherKindsOfWholeModels) {
  PackageContent content = Content();
  content.manifest.set_kind("attention_ffn");
  auto opened = BuildAndOpen(content);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(CheckAgainstBase(*opened, p_.base).ok());
  opened->manifest.mutable_model()->set_ffn_width(9);
  EXPECT_THAT(std::string(CheckAgainstBase(*opened, p_.base).message()),
              HasSubstr("model.ffn_width is 9"));

  constexpr int64_t kOwn = kFfnWidth + 3;
  for (NamedTensor& t : branch_) {
    if (!absl::StrContains(t.name, ".mlp.")) continue;
    t.tensor = numbers_.New(absl::StrContains(t.name, "down")
                                ? math::Shape{kWidth, kOwn}
                                : math::Shape{kOwn, kWidth},
                            3);
  }
  content = Content();
  content.manifest.set_kind("sized");
  content.manifest.mutable_model()->set_ffn_width(kOwn);
  opened = BuildAndOpen(content);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const absl::Status fits = CheckAgainstBase(*opened, p_.base);
  EXPECT_TRUE(fits.ok()) << fits;
  const std::string folder = FreshFolder("model");  // without its tokenizer
  for (const char* name : {"config.json", "weights.safetensors"}) {
    std::filesystem::copy_file(absl::StrCat(p_.base_folder, "/", name),
                               absl::StrCat(folder, "/", name));
  }
  auto base = LoadModel(folder);
  ASSERT_TRUE(base.ok()) << base.status();
  auto branch = LoadBranch(*opened, **base);
  ASSERT_TRUE(branch.ok()) << branch.status();
  EXPECT_EQ((*branch)->config.ffn_width, kOwn);
  EXPECT_EQ((*branch)->weights.layers[1].experts[0].gate.shape,
            (math::Shape{kOwn, kWidth}));
  EXPECT_EQ((*branch)->weights.layers[0].q.data,
            opened->weights->Find(kQ).data);
  EXPECT_EQ((*branch)->weights.layers[1].q.data,
            (*base)->weights.layers[1].q.data);
  EXPECT_TRUE(model::CheckWeights((*branch)->config, (*branch)->weights).ok());

  // A width that its tensors do not have.
  opened->manifest.mutable_model()->set_ffn_width(kOwn + 1);
  EXPECT_THAT(std::string(CheckAgainstBase(*opened, p_.base).message()),
              HasSubstr("by the base and ffn_width"));
  EXPECT_FALSE(LoadBranch(*opened, **base).ok());
  // Nor does a dense one have a width of its own.
  opened->manifest.mutable_model()->set_ffn_width(kOwn);
  opened->manifest.set_kind("dense");
  EXPECT_THAT(std::string(CheckAgainstBase(*opened, p_.base).message()),
              AllOf(HasSubstr("model.ffn_width"), HasSubstr("the base's is")));
  EXPECT_FALSE(LoadBranch(p_.expert, **base).ok());
}

// Means, thresholds and second moments: whole models may have them, a base
// has none.
TEST_F(Dense, StatisticsOfAWholeModel) {
  PackageContent content = Content();
  const v1::DomainDescriptor& with = p_.expert.manifest.domain();
  *content.manifest.mutable_domain()->mutable_anchored() = with.anchored();
  auto opened = BuildAndOpen(content);
  EXPECT_TRUE(opened.ok()) << opened.status();
  v1::ExpertManifest wrong = opened->manifest;
  wrong.mutable_domain()
      ->mutable_anchored()
      ->mutable_layers(0)
      ->clear_pair_mean();
  EXPECT_THAT(absl::StrJoin(CheckManifest(wrong), "; "),
              HasSubstr("domain.anchored.layers[0].pair_mean"));
  v1::ExpertManifest base = p_.base.manifest;
  *base.mutable_domain()->mutable_anchored() = with.anchored();
  EXPECT_THAT(absl::StrJoin(CheckManifest(base), "; "),
              HasSubstr("a base has domain.anchored"));
  v1::SecondMoments* moments =
      content.manifest.mutable_domain()->mutable_second_moments();
  moments->set_documents(9);
  moments->set_tokens(90);
  content.files["statistics.safetensors"] = "of any bytes";
  const absl::Status built =
      BuildPackage(FreshFolder("moments") + "/package", content,
                   f_.clinic.private_pem, f_.clinic.certificate_pem);
  EXPECT_TRUE(built.ok()) << built;
}

TEST_F(Dense, FisherBelongsToTheModel) {
  PackageContent content = Content();
  std::vector<NamedTensor>& fisher = content.tensor_files[kFisherFile];
  for (const NamedTensor& t : branch_) fisher.push_back(t);
  auto opened = BuildAndOpen(content);
  EXPECT_TRUE(opened.ok()) << opened.status();
  EXPECT_THAT(*proto::ListDirectory(opened->folder),
              testing::Contains("fisher.safetensors"));

  fisher[0].name = "model.other";
  fisher[1].tensor = numbers_.New({3}, 1);
  opened = BuildAndOpen(content);
  ASSERT_FALSE(opened.ok());
  EXPECT_THAT(std::string(opened.status().message()),
              AllOf(HasSubstr("\"model.other\", which the model does not"),
                    HasSubstr("fisher.safetensors lacks tensor"),
                    HasSubstr(fisher[1].name), Not(HasSubstr(kNorm))));
}

}  // namespace
}  // namespace motet::package
