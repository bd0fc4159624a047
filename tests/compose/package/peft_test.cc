// SPDX-License-Identifier: Apache-2.0
// Encoders and adapters on disk: there and back, and what is refused by name.
#include "compose/package/peft.h"

#include <stdlib.h>

#include <deque>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "compose/package/encoder_folder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/files.h"

namespace motet::package {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

model::EncoderConfig Tiny() {
  model::EncoderConfig c;
  c.vocabulary = 50;
  c.width = 8;
  c.layers = 2;
  c.heads = 2;
  c.ffn_width = 12;
  c.max_positions = 16;
  c.token_types = 2;
  c.pad_id = 0;
  return c;
}

class PeftTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(testing::TempDir(), "peftXXXXXX");
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    model::VisitEncoderWeights(
        config_, weights_,
        [&](const std::string&, const math::Shape& shape,
            math::Tensor& tensor) { tensor = Numbers(shape); });
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Each element a number of its own, between -1 and 1.
  math::Tensor Numbers(const math::Shape& shape) {
    std::vector<float>& block = blocks_.emplace_back(shape.size());
    for (float& x : block) {
      next_ = next_ * 1103515245 + 12345;
      x = static_cast<float>(next_ >> 8 & 0xffff) / 32768.0f - 1.0f;
    }
    return {block.data(), math::DType::kF32, math::Device::kCpu, shape};
  }
  model::Lora Adapter(const std::vector<std::string>& targets) {
    model::Lora lora;
    lora.config = {3, 6, 0.1, targets};
    model::VisitLora(config_, lora,
                     [&](const std::string&, const math::Shape& shape,
                         math::Tensor& tensor) { tensor = Numbers(shape); });
    return lora;
  }
  std::string Read(const std::string& name) {
    auto text = proto::ReadFile(folder_ + name, 1 << 20);
    EXPECT_TRUE(text.ok()) << text.status();
    return text.ok() ? *text : "";
  }
  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(proto::WriteFileAtomic(folder_ + name, text).ok());
  }

  const model::EncoderConfig config_ = Tiny();
  model::EncoderWeights weights_;
  std::string folder_;
  std::deque<std::vector<float>> blocks_;
  uint32_t next_ = 1;
};

bool Same(const math::Tensor& a, const math::Tensor& b) {
  return a.shape == b.shape && a.dtype == b.dtype &&
         std::equal(a.f32(), a.f32() + a.size(), b.f32());
}

std::string Error(const absl::Status& status) {
  EXPECT_FALSE(status.ok());
  return std::string(status.message());
}

TEST_F(PeftTest, EncodersGoThereAndBack) {
  for (bool normalise : {false, true}) {
    ASSERT_TRUE(SaveEncoder(folder_, config_, weights_, normalise, 12).ok());
    auto loaded = LoadEncoder(folder_);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ((*loaded)->config, config_);
    EXPECT_EQ((*loaded)->normalise, normalise);
    EXPECT_EQ((*loaded)->max_tokens, 12);
    std::vector<math::Tensor> want;
    model::VisitEncoderWeights(config_, weights_,
                               [&](const std::string&, const math::Shape&,
                                   math::Tensor& t) { want.push_back(t); });
    size_t i = 0;
    model::VisitEncoderWeights(
        config_, (*loaded)->weights,
        [&](const std::string& name, const math::Shape&, math::Tensor& t) {
          EXPECT_TRUE(Same(t, want[i++])) << name;
        });
  }
}

TEST_F(PeftTest, AdaptersGoThereAndBack) {
  const std::vector<std::string> choices[] = {
      {"query", "value"}, {"dense", "key"}, {"attention.output.dense"}};
  for (const auto& targets : choices) {
    model::Lora lora = Adapter(targets);
    ASSERT_TRUE(SaveLora(folder_, config_, lora, "base").ok());
    auto loaded = LoadLora(folder_, config_);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ((*loaded)->lora.config.rank, 3);
    EXPECT_EQ((*loaded)->lora.config.alpha, 6);
    EXPECT_EQ((*loaded)->lora.config.dropout, 0.1);
    EXPECT_EQ((*loaded)->lora.config.targets, targets);
    std::vector<math::Tensor> want;
    model::VisitLora(config_, lora,
                     [&](const std::string&, const math::Shape&,
                         math::Tensor& t) { want.push_back(t); });
    size_t i = 0;
    model::VisitLora(
        config_, (*loaded)->lora,
        [&](const std::string& name, const math::Shape&, math::Tensor& t) {
          EXPECT_TRUE(Same(t, want[i++])) << name;
        });
    EXPECT_EQ(i, want.size());
  }
}

TEST_F(PeftTest, WhatIsMoreThanPlainLoraIsRefusedByName) {
  const std::string plain = WriteLoraConfig({}, "");
  ASSERT_TRUE(ParseLoraConfig(plain).ok());
  const std::pair<const char*, const char*> changes[] = {
      {"\"use_rslora\": false", "\"use_rslora\": true"},
      {"\"use_dora\": false", "\"use_dora\": true"},
      {"\"bias\": \"none\"", "\"bias\": \"lora_only\""},
      {"\"modules_to_save\": null", "\"modules_to_save\": [\"classifier\"]"},
      {"\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\""},
      {"\"peft_type\": \"LORA\"", "\"peft_type\": \"IA3\""},
      {"\"r\": 8", "\"r\": 8, \"rank_pattern\": {\"query\": 2}"},
      {"\"r\": 8", "\"r\": 8, \"new_field\": 1"},
  };
  for (const auto& [from, to] : changes) {
    const std::string text = absl::StrReplaceAll(plain, {{from, to}});
    ASSERT_NE(text, plain) << from;
    EXPECT_THAT(Error(ParseLoraConfig(text).status()),
                HasSubstr("adapter_config.json"));
  }
  EXPECT_THAT(Error(ParseLoraConfig(
                        absl::StrReplaceAll(plain, {{"\"use_dora\": false",
                                                     "\"use_dora\": true"}}))
                        .status()),
              HasSubstr("use_dora = true"));
  EXPECT_THAT(
      Error(ParseLoraConfig(
                absl::StrReplaceAll(
                    plain, {{"\"r\": 8", "\"r\": 8, \"new_field\": 1"}}))
                .status()),
      HasSubstr("new_field = 1"));
}

TEST_F(PeftTest, AnAdapterOfAnotherBaseOrRankIsRefused) {
  ASSERT_TRUE(SaveLora(folder_, config_, Adapter({"query"})).ok());
  model::EncoderConfig other = config_;
  other.width = 12;
  EXPECT_THAT(Error(LoadLora(folder_, other).status()),
              AllOf(HasSubstr("query.lora_A.weight"),
                    HasSubstr("[3, 8], not [3, 12]")));
  Write("/adapter_config.json",
        absl::StrReplaceAll(Read("/adapter_config.json"),
                            {{"\"r\": 3", "\"r\": 2"}}));
  EXPECT_THAT(Error(LoadLora(folder_, config_).status()),
              HasSubstr("[3, 8], not [2, 8]"));
  model::Lora lora = Adapter({"query"});
  lora.config.targets = {"gate_proj"};
  EXPECT_THAT(Error(SaveLora(folder_, config_, lora)),
              HasSubstr("\"gate_proj\""));
}

TEST_F(PeftTest, AnEncoderThatWeWouldHaveToGuessAboutIsRefusedByName) {
  ASSERT_TRUE(SaveEncoder(folder_, config_, weights_, true, 12).ok());
  const std::string config = Read("/config.json");
  const std::pair<const char*, const char*> changes[] = {
      {"\"gelu\"", "\"gelu_new\""},
      {"\"absolute\"", "\"relative_key\""},
      {"\"is_decoder\": false", "\"is_decoder\": true"},
      {"\"BertModel\"", "\"RobertaModel\""},
      {"\"hidden_size\": 8", "\"hidden_size\": 9"},
      {"\"layer_norm_eps\"", "\"rotary\": 1, \"layer_norm_eps\""},
  };
  for (const auto& [from, to] : changes) {
    Write("/config.json", absl::StrReplaceAll(config, {{from, to}}));
    EXPECT_FALSE(LoadEncoder(folder_).ok()) << to;
  }
  Write("/config.json", config);
  const std::string pooling = Read("/1_Pooling/config.json");
  Write("/1_Pooling/config.json",
        absl::StrReplaceAll(pooling,
                            {{"cls_token\": false", "cls_token\": true"}}));
  EXPECT_THAT(Error(LoadEncoder(folder_).status()),
              HasSubstr("pooling_mode_cls_token"));
  Write("/1_Pooling/config.json", pooling);
  const std::string modules = Read("/modules.json");
  Write("/modules.json",
        absl::StrReplaceAll(modules, {{"models.Normalize", "models.Dense"}}));
  EXPECT_THAT(Error(LoadEncoder(folder_).status()), HasSubstr("Dense"));
  Write("/modules.json", modules);
  EXPECT_TRUE(LoadEncoder(folder_).ok());
}

TEST_F(PeftTest, NaNIsFoundAndNamed) {
  weights_.layers[1].output_norm.bias.f32()[3] =
      std::numeric_limits<float>::quiet_NaN();
  ASSERT_TRUE(SaveEncoder(folder_, config_, weights_, true, 12).ok());
  EXPECT_THAT(Error(LoadEncoder(folder_).status()),
              HasSubstr("encoder.layer.1.output.LayerNorm.bias holds"));
}

// The vectors do not depend on the batch, and an adapter is a matter of the
// call: base, adapter and base again.
TEST_F(PeftTest, AVectorsBitsDoNotDependOnTheBatch) {
  auto encoder = model::Encoder::Create(config_, weights_, true);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  const model::Lora lora = Adapter({"query", "value", "dense"});
  std::vector<std::vector<int32_t>> rows;
  for (int32_t n : {3, 16, 1, 7, 12}) {
    rows.emplace_back();
    for (int32_t t = 0; t < n; ++t) rows.back().push_back((t * 7 + n) % 50);
  }
  std::vector<model::EncoderInput> inputs;
  for (const auto& row : rows) inputs.push_back({row, {}});
  const auto encode = [&](std::span<const model::EncoderInput> some,
                          const model::Lora* adapter) {
    std::vector<float> out(some.size() * config_.width);
    EXPECT_TRUE(encoder
                    ->Encode(math::Cpu(), math::Product::kExact, some, adapter,
                             out.data())
                    .ok());
    return out;
  };
  const std::vector<float> base = encode(inputs, nullptr);
  const std::vector<float> adapted = encode(inputs, &lora);
  EXPECT_NE(base, adapted);
  EXPECT_EQ(base, encode(inputs, nullptr));
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::vector<float> alone =
        encode(std::span(inputs).subspan(i, 1), &lora);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(),
                           adapted.begin() + i * config_.width))
        << i;
  }
  const int32_t bad[] = {50};
  const model::EncoderInput wrong = {bad, {}};
  std::vector<float> out(config_.width);
  EXPECT_THAT(Error(encoder->Encode(math::Cpu(), math::Product::kExact,
                                    {&wrong, 1}, nullptr, out.data())),
              HasSubstr("token id 50"));
}

}  // namespace
}  // namespace motet::package
