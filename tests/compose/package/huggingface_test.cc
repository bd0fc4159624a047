// SPDX-License-Identifier: Apache-2.0
#include "compose/package/huggingface.h"

#include <stdlib.h>
#include <string.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/files.h"

namespace motet::package {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Fresh() {
  std::string path = absl::StrCat(testing::TempDir(), "huggingfaceXXXXXX");
  EXPECT_NE(mkdtemp(path.data()), nullptr);
  return path;
}

model::ModelConfig Tiny() {
  model::ModelConfig c;
  c.vocabulary = 300;
  c.width = 8;
  c.layers = 2;
  c.heads = 2;
  c.kv_heads = 1;
  c.head_dim = 4;
  c.ffn_width = 12;
  c.max_positions = 32;
  c.experts = 3;
  c.experts_per_token = 2;
  c.eos_id = 0;
  return c;
}

class HuggingFace : public testing::Test {
 protected:
  // Weights of the config, each element a number of its own.
  model::ModelWeights Weights(const model::ModelConfig& config) {
    model::ModelWeights weights;
    model::VisitWeights(config, weights,
                        [&](const std::string&, const math::Shape& shape,
                            math::Tensor& tensor) {
                          auto& block = blocks_.emplace_back(shape.size());
                          for (float& x : block) x = next_ += 0.125f;
                          tensor = {block.data(), math::DType::kF32,
                                    math::Device::kCpu, shape};
                        });
    if (config.tied_head) weights.head = weights.embed;
    return weights;
  }
  std::string Refusal() {
    const auto loaded = LoadModel(folder_);
    return loaded.ok() ? "" : std::string(loaded.status().message());
  }
  const std::string folder_ = Fresh();
  std::vector<std::vector<float>> blocks_;
  float next_ = 0;
};

TEST_F(HuggingFace, WhatIsSavedLoads) {
  for (const bool tied : {false, true}) {
    model::ModelConfig config = Tiny();
    if (tied) {
      config.block = model::Block::kPreNorm;
      config.qk_norm = model::QkNorm::kNone;
      config.tied_head = true;
      config.experts = config.experts_per_token = 0;
    }
    blocks_.reserve(1000);
    model::ModelWeights weights = Weights(config);
    const std::string folder = absl::StrCat(folder_, "/", tied);
    ASSERT_TRUE(SaveModel(folder, config, weights, "").ok());
    auto loaded = LoadModel(folder);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ((*loaded)->config.experts, config.experts);
    EXPECT_EQ((*loaded)->config.tied_head, tied);
    EXPECT_EQ((*loaded)->tokenizer, nullptr);
    std::vector<math::Tensor> want;
    model::VisitWeights(config, weights,
                        [&](const std::string&, const math::Shape&,
                            math::Tensor& t) { want.push_back(t); });
    size_t i = 0;
    model::VisitWeights(
        config, (*loaded)->weights,
        [&](const std::string& name, const math::Shape&, math::Tensor& t) {
          ASSERT_EQ(t.shape, want[i].shape) << name;
          EXPECT_EQ(memcmp(t.data, want[i].data, t.bytes()), 0) << name;
          ++i;
        });
    EXPECT_EQ(i, want.size());
    EXPECT_EQ((*loaded)->weights.head.empty(), false);
    if (tied) {
      EXPECT_EQ((*loaded)->weights.head.data, (*loaded)->weights.embed.data);
    }
  }
}

TEST_F(HuggingFace, ATokenizerTravelsAlong) {
  blocks_.reserve(1000);
  model::TokenizerTrainOptions options;
  options.vocabulary = 300;
  const std::string json = *model::TrainTokenizer(
      {"the cat and the hat and the bat sat on the mat"}, options);
  const model::ModelConfig config = Tiny();
  ASSERT_TRUE(SaveModel(folder_, config, Weights(config), json).ok());
  EXPECT_EQ(*proto::ReadFile(folder_ + "/tokenizer.json", 1 << 20), json);
  EXPECT_THAT(*proto::ReadFile(folder_ + "/tokenizer_config.json", 1 << 20),
              HasSubstr("\"eos_token\": \"<|endoftext|>\""));
  const auto loaded = LoadModel(folder_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->tokenizer->Decode((*loaded)->tokenizer->Encode("the")),
            "the");
  // A package has no tokenizer_config.json.
  const std::string package = folder_ + "/package";
  ASSERT_TRUE(SaveModel(package, config, Weights(config), json,
                        "weights.safetensors")
                  .ok());
  EXPECT_THAT(*proto::ListDirectory(package),
              testing::ElementsAre("config.json", "tokenizer.json",
                                   "weights.safetensors"));
  EXPECT_TRUE(LoadModel(package).ok());
  std::ofstream(folder_ + "/tokenizer.json") << "{}";
  EXPECT_THAT(Refusal(), AllOf(HasSubstr(folder_), HasSubstr("pre_tokenizer")));
}

TEST_F(HuggingFace, AllThatDoesNotFitIsListedAtOnce) {
  blocks_.reserve(1000);
  const model::ModelConfig config = Tiny();
  ASSERT_TRUE(SaveModel(folder_, config, Weights(config), "").ok());
  const std::string path = folder_ + "/model.safetensors";
  {
    const auto file = *SafetensorsFile::Open(path);
    std::vector<NamedTensor> tensors;
    for (const auto& e : file->entries()) tensors.push_back({e.name, e.tensor});
    for (NamedTensor& t : tensors) {
      if (t.name == "model.norm.weight") t.name = "model.extra.weight";
      if (t.name == "lm_head.weight") {
        t.tensor.shape = {t.tensor.shape.dim[1], t.tensor.shape.dim[0]};
      }
      if (t.name == "model.embed_tokens.weight") {
        t.tensor.dtype = math::DType::kI32;
      }
    }
    ASSERT_TRUE(
        WriteSafetensors(folder_ + "/weights.safetensors", tensors).ok());
  }
  ASSERT_EQ(remove(path.c_str()), 0);
  EXPECT_THAT(Refusal(),
              AllOf(HasSubstr("4 tensors"),
                    HasSubstr("model.norm.weight is missing"),
                    HasSubstr("model.extra.weight is unknown"),
                    HasSubstr("lm_head.weight is [8, 300], not [300, 8]"),
                    HasSubstr("model.embed_tokens.weight is I32")));
}

TEST_F(HuggingFace, MissingFilesAreNamed) {
  EXPECT_THAT(Refusal(), HasSubstr("config.json"));
  ASSERT_TRUE(proto::WriteFileAtomic(folder_ + "/config.json",
                                     model::WriteConfig(Tiny()))
                  .ok());
  EXPECT_THAT(Refusal(), HasSubstr("no model.safetensors"));
  std::ofstream(folder_ + "/model.safetensors.index.json")
      << R"({"weight_map": {"a": "../x.safetensors"}})";
  EXPECT_THAT(Refusal(), HasSubstr("names no safetensors file"));
}

TEST_F(HuggingFace, ShardsAreReadTogether) {
  blocks_.reserve(1000);
  const model::ModelConfig config = Tiny();
  ASSERT_TRUE(SaveModel(folder_, config, Weights(config), "").ok());
  const std::string whole = folder_ + "/model.safetensors";
  std::vector<NamedTensor> halves[2];
  {
    const auto file = *SafetensorsFile::Open(whole);
    for (const auto& e : file->entries()) {
      halves[e.name < "model.layers.1"].push_back({e.name, e.tensor});
    }
    ASSERT_TRUE(WriteSafetensors(folder_ + "/a.safetensors", halves[0]).ok());
    ASSERT_TRUE(WriteSafetensors(folder_ + "/b.safetensors", halves[1]).ok());
  }
  ASSERT_EQ(remove(whole.c_str()), 0);
  std::ofstream(folder_ + "/model.safetensors.index.json")
      << R"({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}})";
  const auto loaded = LoadModel(folder_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->files.size(), 2u);
}

TEST_F(HuggingFace, SavingNamesWhatIsMissing) {
  blocks_.reserve(1000);
  const model::ModelConfig config = Tiny();
  model::ModelWeights weights = Weights(config);
  weights.final_norm = {};
  const absl::Status status = SaveModel(folder_, config, weights, "");
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("model.norm.weight is missing"));
}

}  // namespace
}  // namespace motet::package
