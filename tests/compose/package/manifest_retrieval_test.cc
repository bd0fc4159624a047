// SPDX-License-Identifier: Apache-2.0
// Packages of retrieval: an encoder, an adapter of it and an owner's pilots;
// every rule of theirs refuses something.
#include "compose/package/manifest_retrieval.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/package/encoder_folder.h"
#include "compose/package/manifest.h"
#include "compose/package/manifest_kinds.h"
#include "compose/package/package_folder.h"
#include "compose/package/peft.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/files.h"
#include "tests/compose/package/package_folder_fixture.h"
#include "tests/harness/encoder_directory.h"

namespace motet::package {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kRank = 2, kC = 8;
const char* const kOwn = "clinic.example/heart@1.0.0";
const char* const kOther = "bank.example/money@1.0.0";

PackageContent EncoderContent(const std::string& folder) {
  PackageContent content;
  v1::ExpertManifest& m = content.manifest;
  static std::vector<std::unique_ptr<LoadedEncoder>> kept;
  kept.push_back(*LoadEncoder(folder));
  const LoadedEncoder& loaded = *kept.back();
  m.set_id("choir/base@1.0.0");
  m.set_kind("encoder");
  *m.mutable_model() = ShapeOfEncoder(loaded.config);
  m.mutable_domain()->set_domain("public");
  model::EncoderWeights weights = loaded.weights;
  model::VisitEncoderWeights(
      loaded.config, weights,
      [&](const std::string& name, const math::Shape&, math::Tensor& tensor) {
        content.weights.push_back({name, tensor});
      });
  for (const char* name :
       {"config.json", "tokenizer.json", "modules.json",
        "1_Pooling/config.json", "sentence_bert_config.json"}) {
    content.files[name] = *proto::ReadFile(folder + "/" + name, 1 << 20);
  }
  content.readme = "# encoder\n";
  return content;
}

PackageContent AdapterContent(const OpenedPackage& base,
                              TensorNumbers& numbers) {
  PackageContent content;
  v1::ExpertManifest& m = content.manifest;
  m.set_id(kOwn);
  m.set_kind("embedding_adapter");
  *m.mutable_base() = ReferenceTo(base);
  *m.mutable_model() = base.manifest.model();
  m.mutable_domain()->set_domain("heart");
  model::LoraConfig config;
  config.rank = kRank;
  config.alpha = 4;
  m.mutable_adapter()->set_rank(kRank);
  m.mutable_adapter()->set_alpha(4);
  for (const std::string& t : config.targets) {
    m.mutable_adapter()->add_targets(t);
  }
  m.mutable_adapter()->set_queries(30);
  for (const char* map : {"query", "value"}) {
    const std::string name =
        absl::StrCat("base_model.model.encoder.layer.0.attention.self.", map);
    content.weights.push_back(
        {name + ".lora_A.weight", numbers.New({kRank, kC}, 1)});
    content.weights.push_back(
        {name + ".lora_B.weight", numbers.New({kC, kRank}, 2)});
  }
  content.files["adapter_config.json"] =
      WriteLoraConfig(config, base.manifest.id());
  content.readme = "# heart\n";
  return content;
}

PackageContent PilotContent(const OpenedPackage& base, TensorNumbers& numbers) {
  PackageContent content;
  v1::ExpertManifest& m = content.manifest;
  m.set_id("clinic.example/pilots-heart@1.0.0");
  m.set_kind("pilots");
  *m.mutable_base() = ReferenceTo(base);
  *m.mutable_model() = base.manifest.model();
  m.mutable_domain()->set_domain("heart");
  v1::PilotRecord& p = *m.mutable_pilots();
  p.set_of(kOwn);
  for (const char* id : {kOwn, kOther, "law.example/law@1.0.0"}) {
    v1::PilotExpert* e = p.add_experts();
    e->set_id(id);
    e->set_weights_sha256(std::string(64, 'c'));
  }
  for (const auto& [id, queries] : {std::pair{kOwn, 40}, {kOther, 25}}) {
    v1::PilotGroup* g = p.add_groups();
    g->set_expert(id);
    g->set_queries(queries);
    g->set_gate(0.25);
  }
  p.set_gate_share(0.1);
  p.set_min_queries(20);
  p.set_withheld(1);
  p.set_scorings(3 * (40 + 25 + 7));
  content.weights.push_back({"pilots", numbers.New({2, kC}, 0.5)});
  content.readme = "# pilots\n";
  return content;
}

class RetrievalPackages : public ::testing::Test {
 protected:
  RetrievalPackages() : folder_(FreshFolder("retrieval")) {
    motet::testing::EncoderOptions o;
    o.width = kC;
    o.heads = 2;
    o.ffn_width = 12;
    o.layers = 1;
    motet::testing::WriteEncoderDirectory(folder_ + "/encoder", o);
    Build("base", EncoderContent(folder_ + "/encoder"), f_.coordinator);
    base_ = Open("base");
    Build("adapter", AdapterContent(base_, numbers_), f_.clinic);
    adapter_ = Open("adapter");
    Build("pilots", PilotContent(base_, numbers_), f_.clinic);
    pilots_ = Open("pilots");
  }
  void Build(const std::string& name, const PackageContent& content,
             const Signer& signer) {
    const absl::Status built =
        BuildPackage(folder_ + "/" + name, content, signer.private_pem,
                     signer.certificate_pem);
    EXPECT_TRUE(built.ok()) << built;
  }
  // What BuildPackage says, or what opening says.
  std::string Refusal(const PackageContent& content, const Signer& signer) {
    const std::string folder = FreshFolder("refused") + "/p";
    const absl::Status built = BuildPackage(folder, content, signer.private_pem,
                                            signer.certificate_pem);
    if (!built.ok()) return std::string(built.message());
    const auto opened = OpenPackage(folder, f_.authority.certificate_pem);
    if (!opened.ok()) return std::string(opened.status().message());
    return std::string(CheckAgainstBase(*opened, base_).message());
  }
  OpenedPackage Open(const std::string& name) {
    auto opened =
        OpenPackage(folder_ + "/" + name, f_.authority.certificate_pem);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return *std::move(opened);
  }
  static std::string After(
      const OpenedPackage& package,
      const std::function<void(v1::ExpertManifest&)>& change) {
    v1::ExpertManifest m = package.manifest;
    change(m);
    return absl::StrJoin(CheckManifest(m), "; ");
  }

  const Federation& f_ = TheFederation();
  TensorNumbers numbers_;
  const std::string folder_;
  OpenedPackage base_, adapter_, pilots_;
};

TEST_F(RetrievalPackages, AreWhatTheyShouldBe) {
  EXPECT_THAT(*proto::ListDirectory(folder_ + "/adapter"),
              ::testing::ElementsAre("README.md", "adapter_config.json",
                                     "adapter_model.safetensors",
                                     "manifest.json", "model.sig"));
  EXPECT_EQ(WeightsSha256(adapter_.manifest).size(), 64u);
  EXPECT_EQ(adapter_.manifest.tensors_size(), 4);
  const auto fits = [&](const OpenedPackage& p) {
    const absl::Status status = CheckAgainstBase(p, base_);
    EXPECT_TRUE(status.ok()) << status;
  };
  fits(adapter_);
  fits(pilots_);
  // The folders load as what they are.
  const auto encoder = LoadEncoder(base_.folder);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  EXPECT_TRUE((*encoder)->normalise);
  EXPECT_EQ((*encoder)->max_tokens, 48);
  EXPECT_TRUE(LoadLora(adapter_.folder, (*encoder)->config).ok());
}

TEST_F(RetrievalPackages, NobodySignsForAnother) {
  EXPECT_THAT(Refusal(EncoderContent(base_.folder), f_.clinic),
              HasSubstr("want a coordinator of the federation choir"));
  EXPECT_THAT(Refusal(AdapterContent(base_, numbers_), f_.coordinator),
              HasSubstr("want a node of the owner clinic.example"));
  EXPECT_THAT(Refusal(PilotContent(base_, numbers_), f_.bank),
              HasSubstr("want a node of the owner clinic.example"));
}

TEST_F(RetrievalPackages, HoldNoFurtherFile) {
  PackageContent content = AdapterContent(base_, numbers_);
  content.files["queries.jsonl"] = "{}\n";
  EXPECT_THAT(Refusal(content, f_.clinic),
              HasSubstr("files has \"queries.jsonl\", which "
                        "embedding_adapter packages do not have"));
  // Readers would take it for the weights.
  content = EncoderContent(base_.folder);
  content.files["model.safetensors"] = "x";
  EXPECT_THAT(Refusal(content, f_.coordinator),
              HasSubstr("files has \"model.safetensors\""));
  content = EncoderContent(base_.folder);
  content.files.erase("tokenizer.json");
  EXPECT_THAT(Refusal(content, f_.coordinator),
              HasSubstr("files lacks tokenizer.json"));
}

TEST_F(RetrievalPackages, AnEncoderMustBeWhatItSays) {
  PackageContent content = EncoderContent(base_.folder);
  content.manifest.mutable_model()->set_vocabulary(9);
  EXPECT_THAT(Refusal(content, f_.coordinator),
              HasSubstr("model.vocabulary is 9, config.json has"));
  content = EncoderContent(base_.folder);
  content.weights.pop_back();
  EXPECT_THAT(Refusal(content, f_.coordinator),
              HasSubstr("output.LayerNorm.bias"));
  EXPECT_THAT(
      After(base_, [](auto& m) { m.mutable_model()->set_block("olmo2"); }),
      HasSubstr("model.block is \"olmo2\", want bert"));
  EXPECT_THAT(After(base_, [](auto& m) { m.mutable_adapter(); }),
              HasSubstr("adapter of kind \"encoder\""));
}

TEST_F(RetrievalPackages, AnAdaptersRecordIsItsConfig) {
  const auto after = [&](const auto& change) {
    PackageContent content = AdapterContent(base_, numbers_);
    change(content.manifest);
    return Refusal(content, f_.clinic);
  };
  EXPECT_THAT(after([](auto& m) { m.clear_adapter(); }),
              HasSubstr("adapter is missing of kind"));
  EXPECT_THAT(after([](auto& m) { m.mutable_adapter()->set_rank(9); }),
              HasSubstr("adapter.rank is 9, want 1 to the width, 8"));
  EXPECT_THAT(after([](auto& m) { m.mutable_adapter()->set_rank(3); }),
              HasSubstr("want lora_A.weight [3, C]"));
  EXPECT_THAT(after([](auto& m) { m.mutable_adapter()->set_alpha(0); }),
              HasSubstr("adapter.alpha is 0, want more than 0"));
  EXPECT_THAT(after([](auto& m) { m.mutable_adapter()->set_alpha(5); }),
              HasSubstr("adapter.alpha is 5, adapter_config.json has 4"));
  EXPECT_THAT(after([](auto& m) { m.mutable_adapter()->clear_targets(); }),
              HasSubstr("adapter.targets is [], want"));
  EXPECT_THAT(after([](auto& m) { m.mutable_adapter()->add_targets("key"); }),
              HasSubstr("adapter_config.json has [query, value]"));
}

TEST_F(RetrievalPackages, AnAdapterOfAnotherBaseOrShapeIsRefused) {
  PackageContent content = AdapterContent(base_, numbers_);
  content.manifest.mutable_base()->set_manifest_sha256(std::string(64, 'a'));
  EXPECT_THAT(Refusal(content, f_.clinic), HasSubstr("base.manifest_sha256"));
  content = AdapterContent(base_, numbers_);
  content.weights[0].tensor = numbers_.New({kRank, kC + 1}, 0);
  EXPECT_THAT(Refusal(content, f_.clinic), HasSubstr("query.lora_A"));
  content = AdapterContent(base_, numbers_);
  content.weights.pop_back();
  EXPECT_THAT(Refusal(content, f_.clinic), HasSubstr("lacks"));
  content = AdapterContent(base_, numbers_);
  content.weights.resize(2);
  EXPECT_THAT(Refusal(content, f_.clinic), HasSubstr("value.lora_A"));
  content = AdapterContent(base_, numbers_);
  for (NamedTensor& t : content.weights) {
    t.name.replace(t.name.find("layer.0"), 7, "layer.1");
  }
  EXPECT_THAT(Refusal(content, f_.clinic), HasSubstr("layer.1"));
  content = AdapterContent(base_, numbers_);
  content.weights[0].tensor.f32()[3] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(Refusal(content, f_.clinic).empty());
  // Neither stands beside the other's base.
  const Packages decoders = MakePackages();
  EXPECT_THAT(std::string(CheckAgainstBase(adapter_, decoders.base).message()),
              HasSubstr("kind is \"embedding_adapter\", want ffn, dense, "
                        "attention_ffn or sized"));
  EXPECT_THAT(std::string(CheckAgainstBase(decoders.expert, base_).message()),
              HasSubstr("kind is \"ffn\", want embedding_adapter or pilots"));
}

TEST_F(RetrievalPackages, PilotsSayWhatTheyAreOf) {
  const auto after = [&](const std::function<void(v1::PilotRecord&)>& change) {
    return After(pilots_, [&](auto& m) { change(*m.mutable_pilots()); });
  };
  EXPECT_THAT(After(pilots_, [](auto& m) { m.clear_pilots(); }),
              HasSubstr("pilots is missing of kind"));
  EXPECT_THAT(after([](auto& p) { p.set_of(kOther); }),
              HasSubstr("want an expert of \"clinic.example\""));
  EXPECT_THAT(after([](auto& p) { p.set_of("clinic.example/lung@1.0.0"); }),
              HasSubstr("pilots.experts lacks \"clinic.example/lung@1.0.0\""));
  EXPECT_THAT(after([](auto& p) { *p.add_experts() = p.experts(0); }),
              HasSubstr("pilots.experts has \"clinic.example/heart@1.0.0\" "
                        "twice"));
  EXPECT_THAT(after([](auto& p) { p.mutable_experts(1)->set_id("x"); }),
              AllOf(HasSubstr("pilots.experts has \"x\""),
                    HasSubstr("which is not one of its experts")));
  EXPECT_THAT(
      after([](auto& p) { p.mutable_experts(1)->set_weights_sha256("x"); }),
      HasSubstr("weights_sha256 of"));
  EXPECT_THAT(after([](auto& p) { p.mutable_groups()->SwapElements(0, 1); }),
              HasSubstr("out of the experts' order"));
  EXPECT_THAT(after([](auto& p) { p.clear_groups(); }),
              HasSubstr("pilots.groups is empty"));
  EXPECT_THAT(after([](auto& p) { p.mutable_groups(1)->set_queries(19); }),
              HasSubstr("is of 19 queries, want at least the owner's floor"));
  EXPECT_THAT(after([](auto& p) { p.set_min_queries(0); }),
              HasSubstr("pilots.min_queries is 0"));
  EXPECT_THAT(after([](auto& p) { p.set_withheld(2); }),
              HasSubstr("2 groups and 2 withheld"));
  for (const uint64_t scorings : {0, 3 * 64, 3 * 72 + 1, 3 * 65}) {
    EXPECT_THAT(after([&](auto& p) { p.set_scorings(scorings); }),
                HasSubstr(absl::StrCat("pilots.scorings is ", scorings)));
  }
  EXPECT_THAT(after([](auto& p) { p.set_gate_share(0.6); }),
              HasSubstr("pilots.gate_share is 0.6, want 0 to 0.5"));
  EXPECT_THAT(after([](auto& p) { p.mutable_groups(1)->set_gate(1.5); }),
              HasSubstr("is 1.5, want a cosine, -1 to 1"));
  EXPECT_THAT(after([](auto& p) { p.mutable_groups(1)->set_gate(NAN); }),
              HasSubstr("want a cosine, -1 to 1"));
  EXPECT_THAT(after([](auto& p) { p.set_gate_share(0); }),
              HasSubstr("is 0.25, want none without gate_share"));
  EXPECT_THAT(after([](auto& p) { p.set_noise(-1); }),
              HasSubstr("pilots.noise is -1"));
}

TEST_F(RetrievalPackages, PilotsAreOneRowAGroup) {
  PackageContent content = PilotContent(base_, numbers_);
  content.weights[0].tensor = numbers_.New({3, kC}, 0);
  EXPECT_THAT(Refusal(content, f_.clinic),
              HasSubstr("tensors is not pilots F32 [2, 8]"));
  content = PilotContent(base_, numbers_);
  content.weights.push_back({"queries", numbers_.New({2, kC}, 0)});
  EXPECT_THAT(Refusal(content, f_.clinic), HasSubstr("alone"));
  content = PilotContent(base_, numbers_);
  content.weights[0].tensor.f32()[kC] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(Refusal(content, f_.clinic), HasSubstr("not finite"));
  content = PilotContent(base_, numbers_);
  content.manifest.mutable_base()->set_weights_sha256(std::string(64, 'b'));
  EXPECT_THAT(Refusal(content, f_.clinic), HasSubstr("base.weights_sha256"));
}

}  // namespace
}  // namespace motet::package
