// SPDX-License-Identifier: Apache-2.0
// The base package of the node's tests: small enough to train in
// milliseconds, made by the code that makes real ones.
#include <gtest/gtest.h>

#include <bit>
#include <deque>

#include "absl/strings/str_cat.h"
#include "compose/learn/corpus.h"
#include "compose/learn/statistics.h"
#include "compose/learn/trainer.h"
#include "compose/model/tokenizer.h"
#include "compose/package/manifest.h"
#include "compose/package/package_folder.h"
#include "nlohmann/json.hpp"
#include "proto/digest.h"
#include "tests/node/support.h"

namespace motet::node::testing {
namespace {

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    ADD_FAILURE() << value.status();
    abort();
  }
  return *std::move(value);
}

math::Tensor View(std::vector<float>& values, math::Shape shape) {
  math::Tensor t;
  t.data = values.data();
  t.shape = shape;
  return t;
}

// To the upper half of their bits.
void RoundMatrices(learn::OwnedModel& model,
                   std::deque<std::vector<uint16_t>>& rounded) {
  VisitWeights(model.config, model.weights,
               [&](const std::string&, const math::Shape& shape,
                   math::Tensor& tensor) {
                 if (shape.rank < 2) return;
                 std::vector<uint16_t>& to = rounded.emplace_back();
                 for (int64_t i = 0; i < tensor.size(); ++i) {
                   to.push_back(static_cast<uint16_t>(
                       std::bit_cast<uint32_t>(tensor.f32()[i]) >> 16));
                 }
                 tensor.data = to.data();
                 tensor.dtype = math::DType::kBF16;
               });
}

}  // namespace

std::string MakeBasePackage(const TestFederation& federation,
                            const std::string& folder, bool bf16) {
  const std::vector<std::string> documents = SomeDocuments(40, "public");
  model::TokenizerTrainOptions options;
  options.vocabulary = 320;
  const std::string tokenizer_json =
      Must(model::TrainTokenizer(documents, options));
  const auto tokenizer = Must(model::Tokenizer::Parse(tokenizer_json));
  model::ModelConfig config;
  config.block = model::Block::kPostNorm;
  config.vocabulary = tokenizer->vocabulary();
  config.width = 16;
  config.layers = 2;
  config.heads = config.kv_heads = 2;
  config.head_dim = 8;
  config.ffn_width = 32;
  config.max_positions = 64;
  config.eos_id = tokenizer->IdOf("<|endoftext|>");
  config.pad_id = tokenizer->IdOf("<|padding|>");
  learn::OwnedModel model = learn::InitialModel(config, 5);
  std::deque<std::vector<uint16_t>> rounded;
  if (bf16) RoundMatrices(model, rounded);
  const learn::TokenWindows windows(*tokenizer, documents, config.eos_id, 16);
  const model::Decoder decoder =
      Must(model::Decoder::Create(config, model.weights, model::Router{}));
  std::vector<learn::AnchorLayer> anchor =
      Must(learn::ComputeAnchor(decoder, windows, 1024));

  package::PackageContent content;
  v1::ExpertManifest& m = content.manifest;
  m.set_id("demo/base@1.0.0");
  m.set_kind("base");
  m.set_title("Public base");
  m.mutable_model()->set_block("olmo2");
  m.mutable_model()->set_layers(2);
  m.mutable_model()->set_width(16);
  m.mutable_model()->set_ffn_width(32);
  m.mutable_model()->set_vocabulary(static_cast<uint32_t>(config.vocabulary));
  m.mutable_domain()->set_domain("public");
  m.mutable_domain()->set_documents(documents.size());
  m.mutable_training()->set_method("dense");
  m.mutable_training()->set_steps(1);
  m.mutable_training()->set_software("test");
  m.mutable_licence()->set_spdx("CC0-1.0");
  model::VisitWeights(config, model.weights,
                      [&](const std::string& name, const math::Shape&,
                          math::Tensor& tensor) {
                        content.weights.push_back({name, tensor});
                      });
  content.files["config.json"] = model::WriteConfig(config);
  content.files["tokenizer.json"] = tokenizer_json;
  for (const std::string& d : documents) {
    content.files["public.jsonl"] +=
        nlohmann::json{{"text", d}}.dump() + "\n";
  }
  std::vector<package::NamedTensor> tensors;
  for (size_t l = 0; l < anchor.size(); ++l) {
    const std::string prefix = absl::StrCat("layers.", l, ".");
    tensors.push_back({prefix + "mean", View(anchor[l].mean, {16})});
    tensors.push_back(
        {prefix + "covariance", View(anchor[l].covariance, {16, 16})});
    tensors.push_back(
        {prefix + "precision", View(anchor[l].precision, {16, 16})});
  }
  const std::string anchor_path = NewFolder("anchor") + "/anchor.safetensors";
  EXPECT_TRUE(package::WriteSafetensors(anchor_path, tensors).ok());
  content.files["anchor.safetensors"] = ReadAll(anchor_path);
  content.readme = "# base\n";
  const absl::Status built = package::BuildPackage(
      folder, content, federation.coordinator_key,
      federation.coordinator_certificate);
  EXPECT_TRUE(built.ok()) << built;
  return folder;
}

v1::BaseReference ReferenceTo(const std::string& folder) {
  // Read, not verified: tests refer to bad packages too.
  package::OpenedPackage opened;
  opened.folder = folder;
  const std::string bytes = ReadAll(folder + "/manifest.json");
  opened.manifest = Must(package::ParseManifest(bytes));
  opened.manifest_sha256 = proto::Hex(proto::Sha256(bytes));
  return package::ReferenceTo(opened);
}

}  // namespace motet::node::testing
