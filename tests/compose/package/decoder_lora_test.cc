// SPDX-License-Identifier: Apache-2.0
// LoRA adapters of decoders folded into the base, against a plain product.
#include "compose/package/decoder_lora.h"

#include <stdlib.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "compose/package/peft.h"
#include "compose/package/safetensors.h"
#include "gmock/gmock.h"
#include "proto/files.h"

namespace motet::package {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using math::DType;
using math::Tensor;

class DecoderLora : public testing::Test {
 protected:
  DecoderLora() {
    folder_ = testing::TempDir() + "loraXXXXXX";
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    config_.block = model::Block::kPreNorm;
    config_.qk_norm = model::QkNorm::kNone;
    config_.vocabulary = 11;
    config_.width = 8;
    config_.layers = 2;
    config_.heads = 2;
    config_.kv_heads = 1;
    config_.head_dim = 4;
    config_.ffn_width = 12;
    config_.max_positions = 16;
    model::VisitWeights(config_, base_,
                        [&](const std::string&, const math::Shape& shape,
                            Tensor& t) { t = New(shape); });
  }
  Tensor New(const math::Shape& shape) {
    std::normal_distribution<float> normal(0, 1);
    auto& block = numbers_.emplace_back(new float[shape.size()]);
    for (int64_t i = 0; i < shape.size(); ++i) block[i] = normal(random_);
    Tensor t;
    t.data = block.get();
    t.shape = shape;
    return t;
  }
  void WriteConfig(std::vector<std::string> targets, int64_t rank = 3) {
    model::LoraConfig config;
    config.rank = rank;
    config.alpha = 6;
    config.targets = std::move(targets);
    ASSERT_TRUE(proto::WriteFileAtomic(folder_ + "/adapter_config.json",
                                       WriteLoraConfig(config, "base"))
                    .ok());
  }
  // A pair for each map of each layer, under PEFT's names.
  void WriteTensors(const std::vector<std::string>& maps) {
    std::vector<NamedTensor> tensors;
    pairs_.clear();
    for (int l = 0; l < 2; ++l) {
      for (const std::string& map : maps) {
        const Tensor& w = WeightOf(base_, l, map);
        const std::string name =
            "base_model.model.model.layers." + std::to_string(l) +
            (map[1] == '_' ? ".self_attn." : ".mlp.") + map;
        pairs_.push_back({New({3, w.cols()}), New({w.rows(), 3})});
        tensors.push_back({name + ".lora_A.weight", pairs_.back().first});
        tensors.push_back({name + ".lora_B.weight", pairs_.back().second});
      }
    }
    ASSERT_TRUE(
        WriteSafetensors(folder_ + "/adapter_model.safetensors", tensors)
            .ok());
  }
  static const Tensor& WeightOf(const model::ModelWeights& w, int l,
                                const std::string& map) {
    const model::LayerWeights& layer = w.layers[l];
    if (map == "q_proj") return layer.q;
    if (map == "k_proj") return layer.k;
    if (map == "v_proj") return layer.v;
    if (map == "o_proj") return layer.o;
    if (map == "gate_proj") return layer.experts[0].gate;
    if (map == "up_proj") return layer.experts[0].up;
    return layer.experts[0].down;
  }
  std::string Refusal() {
    const auto folded = FoldLora(folder_, config_, base_);
    EXPECT_FALSE(folded.ok());
    return std::string(folded.status().message());
  }

  std::mt19937 random_{3};
  std::vector<std::unique_ptr<float[]>> numbers_;
  std::string folder_;
  model::ModelConfig config_;
  model::ModelWeights base_;
  std::vector<std::pair<Tensor, Tensor>> pairs_;
};

const std::vector<std::string> kAll = {"q_proj",    "k_proj",  "v_proj",
                                       "o_proj",    "gate_proj", "up_proj",
                                       "down_proj"};

TEST_F(DecoderLora, EveryMapBecomesWPlusScaledBA) {
  WriteConfig(kAll);
  WriteTensors(kAll);
  const auto folded = FoldLora(folder_, config_, base_);
  ASSERT_TRUE(folded.ok()) << folded.status();
  EXPECT_EQ(folded->maps, 14);
  size_t pair = 0;
  for (int l = 0; l < 2; ++l) {
    for (const std::string& map : kAll) {
      const Tensor& w = WeightOf(base_, l, map);
      const Tensor& got = WeightOf(folded->weights, l, map);
      const auto& [a, b] = pairs_[pair++];
      for (int64_t o = 0; o < w.rows(); ++o) {
        for (int64_t i = 0; i < w.cols(); ++i) {
          double want = w.f32()[o * w.cols() + i];
          for (int r = 0; r < 3; ++r) {
            want += 2.0 * b.f32()[o * 3 + r] * a.f32()[r * w.cols() + i];
          }
          EXPECT_NEAR(got.f32()[o * w.cols() + i], want, 1e-5) << map;
        }
      }
    }
  }
  // What is not adapted is the base's own.
  EXPECT_EQ(folded->weights.embed.data, base_.embed.data);
  EXPECT_EQ(folded->weights.layers[0].ffn_norm.data,
            base_.layers[0].ffn_norm.data);
}

TEST_F(DecoderLora, HalfWeightsStayHalfAndRoundOnce) {
  Tensor& q = base_.layers[0].q;
  std::vector<uint16_t> bits(q.size());
  for (int64_t i = 0; i < q.size(); ++i) {
    bits[i] = math::NarrowBf16(q.f32()[i]);
  }
  q.data = bits.data();
  q.dtype = DType::kBF16;
  WriteConfig({"self_attn.q_proj"});
  WriteTensors({"q_proj"});
  const auto folded = FoldLora(folder_, config_, base_);
  ASSERT_TRUE(folded.ok()) << folded.status();
  EXPECT_EQ(folded->maps, 2);
  const Tensor& got = folded->weights.layers[0].q;
  ASSERT_EQ(got.dtype, DType::kBF16);
  const auto& [a, b] = pairs_[0];
  for (int64_t o = 0; o < q.rows(); ++o) {
    for (int64_t i = 0; i < q.cols(); ++i) {
      double want = math::WidenBf16(bits[o * q.cols() + i]);
      for (int r = 0; r < 3; ++r) {
        want += 2.0 * b.f32()[o * 3 + r] * a.f32()[r * q.cols() + i];
      }
      EXPECT_EQ(got.bf16()[o * q.cols() + i],
                math::NarrowBf16(static_cast<float>(want)));
    }
  }
}

TEST_F(DecoderLora, WhatDoesNotFitIsRefusedByName) {
  WriteConfig({"q_proj", "lm_head", "query"});
  WriteTensors({"q_proj"});
  EXPECT_THAT(Refusal(),
              AllOf(HasSubstr("\"lm_head\""), HasSubstr("\"query\""),
                    HasSubstr("gate_proj")));
  WriteConfig({"q_proj", "v_proj"});
  EXPECT_THAT(Refusal(), HasSubstr("layers.0.self_attn.v_proj.lora_A.weight "
                                   "is missing"));
  WriteConfig({"q_proj"});
  WriteTensors({"q_proj", "up_proj"});
  EXPECT_THAT(Refusal(), HasSubstr("mlp.up_proj.lora_B.weight is unknown"));
  WriteConfig({"q_proj"}, 2);
  WriteTensors({"q_proj"});
  EXPECT_THAT(Refusal(), HasSubstr("[3, 8], not [2, 8]"));
}

TEST_F(DecoderLora, NanIsNamed) {
  WriteConfig({"o_proj"});
  WriteTensors({"o_proj"});
  pairs_[0].first.f32()[4] = std::numeric_limits<float>::quiet_NaN();
  std::vector<NamedTensor> tensors;
  const auto file =
      SafetensorsFile::Open(folder_ + "/adapter_model.safetensors");
  ASSERT_TRUE(file.ok());
  for (const auto& entry : (*file)->entries()) {
    const bool first =
        entry.name.find("layers.0.self_attn.o_proj.lora_A") != entry.name.npos;
    tensors.push_back({entry.name, first ? pairs_[0].first : entry.tensor});
  }
  ASSERT_TRUE(
      WriteSafetensors(folder_ + "/adapter_model.safetensors", tensors).ok());
  EXPECT_THAT(Refusal(), HasSubstr("o_proj.lora_A.weight holds infinities"));
}

}  // namespace
}  // namespace motet::package
