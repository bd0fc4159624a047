// SPDX-License-Identifier: Apache-2.0
#include "tests/compose/package/package_folder_fixture.h"

#include <stdlib.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "compose/model/config.h"
#include "compose/model/tokenizer.h"
#include "compose/model/weights.h"
#include "gtest/gtest.h"
#include "proto/digest.h"
#include "proto/files.h"
#include "proto/signature.h"

namespace motet::package {
namespace {

Signer MakeSigner(const proto::Authority& authority,
                  const proto::SpiffeId& id) {
  const proto::KeyPair key = *proto::MakeKey();
  const std::string request = *proto::MakeRequest(key.private_pem, id);
  const std::string certificate = *proto::Issue(
      authority, request, proto::InspectRequest(request)->fingerprint);
  return {key.private_pem, certificate};
}

model::ModelConfig Config() {
  model::ModelConfig c;
  c.vocabulary = kVocabulary;
  c.width = kWidth;
  c.layers = kLayers;
  c.heads = 2;
  c.kv_heads = 2;
  c.head_dim = 2;
  c.ffn_width = kFfnWidth;
  c.max_positions = 16;
  return c;
}

void SetShape(v1::ModelShape& shape) {
  shape.set_block("olmo2");
  shape.set_layers(kLayers);
  shape.set_width(kWidth);
  shape.set_ffn_width(kFfnWidth);
  shape.set_vocabulary(kVocabulary);
}

}  // namespace

std::string FreshFolder(const std::string& name) {
  std::string path = absl::StrCat(testing::TempDir(), name, "XXXXXX");
  EXPECT_NE(mkdtemp(path.data()), nullptr);
  return path;
}

const Federation& TheFederation() {
  static const Federation* const federation = [] {
    auto* f = new Federation;
    f->authority = *proto::MakeAuthority("choir");
    f->coordinator =
        MakeSigner(f->authority, {"choir", "coordinator", "", "main"});
    f->clinic =
        MakeSigner(f->authority, {"choir", "node", "clinic.example", "one"});
    f->bank =
        MakeSigner(f->authority, {"choir", "node", "bank.example", "one"});
    return f;
  }();
  return *federation;
}

math::Tensor TensorNumbers::New(const math::Shape& shape, float first) {
  auto block = std::make_unique<std::vector<float>>(shape.size());
  for (size_t i = 0; i < block->size(); ++i) (*block)[i] = first + 0.25f * i;
  math::Tensor t{block->data(), math::DType::kF32, math::Device::kCpu, shape};
  blocks_.push_back(std::move(block));
  return t;
}

PackageContent BaseContent(TensorNumbers& numbers) {
  PackageContent content;
  v1::ExpertManifest& m = content.manifest;
  m.set_id("choir/base@1.0.0");
  m.set_kind("base");
  m.set_title("Public base");
  SetShape(*m.mutable_model());
  m.mutable_domain()->set_domain("public");
  m.mutable_training()->set_method("dense");
  (*m.mutable_training()->mutable_hyper_parameters())["learning_rate"] = 1e-3;
  (*m.mutable_training()->mutable_hyper_parameters())["batch"] = 8;
  (*m.mutable_training()->mutable_hyper_parameters())["clip"] = 0.1;
  model::ModelWeights weights;
  float first = 0;
  model::VisitWeights(Config(), weights,
                      [&](const std::string& name, const math::Shape& shape,
                          math::Tensor&) {
                        content.weights.push_back(
                            {name, numbers.New(shape, first++)});
                      });
  content.files["config.json"] = model::WriteConfig(Config());
  content.files["tokenizer.json"] = "{}";
  content.files["public.jsonl"] = "{\"text\": \"hello\"}\n";
  std::vector<NamedTensor> anchor;
  for (int l = 0; l < kLayers; ++l) {
    const std::string layer = absl::StrCat("layers.", l, ".");
    anchor.push_back({layer + "mean", numbers.New({kWidth}, 1)});
    anchor.push_back({layer + "covariance", numbers.New({kWidth, kWidth}, 2)});
    anchor.push_back({layer + "precision", numbers.New({kWidth, kWidth}, 3)});
  }
  const std::string path = FreshFolder("anchor") + "/anchor.safetensors";
  EXPECT_TRUE(WriteSafetensors(path, anchor).ok());
  content.files["anchor.safetensors"] = *proto::ReadFile(path, 1 << 20);
  content.readme = "# base\n";
  return content;
}

PackageContent ExpertContent(const OpenedPackage& base, TensorNumbers& numbers) {
  PackageContent content;
  v1::ExpertManifest& m = content.manifest;
  m.set_id("clinic.example/cardiology@1.2.0");
  m.set_kind("ffn");
  m.set_title("Cardiology");
  *m.mutable_base() = ReferenceTo(base);
  SetShape(*m.mutable_model());
  m.set_frozen_sha256(FrozenDigest(base.manifest));
  m.mutable_domain()->set_domain("cardiology");
  m.mutable_domain()->set_documents(100);
  v1::AnchoredStatistics& a = *m.mutable_domain()->mutable_anchored();
  a.set_smoothing(0.8);
  a.set_gate_quantile(0.97);
  for (int l = 0; l < kLayers; ++l) {
    v1::LayerStatistics& layer = *a.add_layers();
    for (int c = 0; c < kWidth; ++c) {
      layer.add_base_mean(0.1f * c);
      layer.add_pair_mean(0.3f * c);
    }
    layer.set_threshold(12.5f);
  }
  m.mutable_training()->set_method("flexolmo");
  m.mutable_licence()->set_spdx("CC-BY-4.0");
  m.mutable_licence()->add_forbidden_purposes("advertising");
  for (int l = 0; l < kLayers; ++l) {
    const std::string layer = absl::StrCat("layers.", l, ".");
    const std::pair<const char*, math::Shape> tensors[] = {
        {"mlp.gate_proj.weight", {kFfnWidth, kWidth}},
        {"mlp.up_proj.weight", {kFfnWidth, kWidth}},
        {"mlp.down_proj.weight", {kWidth, kFfnWidth}},
        {"router.row", {kWidth}},
        {"router.bias", {1}}};
    for (const auto& [name, shape] : tensors) {
      content.weights.push_back({layer + name, numbers.New(shape, l)});
    }
  }
  content.readme = "# cardiology\n";
  return content;
}

Packages MakePackages() {
  const Federation& f = TheFederation();
  Packages packages;
  const std::string folder = FreshFolder("packages");
  packages.base_folder = folder + "/base";
  packages.expert_folder = folder + "/expert";
  TensorNumbers numbers;
  const absl::Status base =
      BuildPackage(packages.base_folder, BaseContent(numbers),
                   f.coordinator.private_pem, f.coordinator.certificate_pem);
  EXPECT_TRUE(base.ok()) << base;
  auto opened_base =
      OpenPackage(packages.base_folder, f.authority.certificate_pem);
  EXPECT_TRUE(opened_base.ok()) << opened_base.status();
  packages.base = *std::move(opened_base);
  const absl::Status expert = BuildPackage(
      packages.expert_folder, ExpertContent(packages.base, numbers),
      f.clinic.private_pem, f.clinic.certificate_pem);
  EXPECT_TRUE(expert.ok()) << expert;
  auto opened_expert =
      OpenPackage(packages.expert_folder, f.authority.certificate_pem);
  EXPECT_TRUE(opened_expert.ok()) << opened_expert.status();
  packages.expert = *std::move(opened_expert);
  return packages;
}

void SignAgain(const std::string& folder, const std::string& id,
               const Signer& signer) {
  std::vector<proto::SignedFile> files;
  const auto names = proto::ListDirectory(folder);
  for (const std::string& name : *names) {
    if (name == "model.sig") continue;
    files.push_back({name, *proto::Sha256File(folder + "/" + name)});
  }
  const auto signature = proto::SignFiles(id, files, signer.private_pem,
                                          signer.certificate_pem);
  ASSERT_TRUE(signature.ok()) << signature.status();
  ASSERT_TRUE(proto::WriteFileAtomic(folder + "/model.sig", *signature).ok());
}

void EditManifest(const std::string& folder, const std::string& from,
                  const std::string& to) {
  const std::string path = folder + "/manifest.json";
  const std::string text = *proto::ReadFile(path, 1 << 20);
  ASSERT_NE(text.find(from), std::string::npos) << from;
  ASSERT_TRUE(
      proto::WriteFileAtomic(path, absl::StrReplaceAll(text, {{from, to}}))
          .ok());
}

}  // namespace motet::package
