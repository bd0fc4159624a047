// SPDX-License-Identifier: Apache-2.0
// What lies in files of other programs: half-precision weights, experts in
// one tensor, numbers that are none.
#include "compose/package/weight_match.h"

#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compose/package/huggingface.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/files.h"

namespace motet::package {
namespace {

using math::DType;
using math::Shape;
using math::Tensor;
using ::testing::HasSubstr;

class WeightMatch : public testing::Test {
 protected:
  WeightMatch() {
    folder_ = testing::TempDir() + "weight_match_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    config_.vocabulary = 30;
    config_.width = 8;
    config_.layers = 2;
    config_.heads = 2;
    config_.kv_heads = 1;
    config_.head_dim = 4;
    config_.ffn_width = 6;
    config_.max_positions = 32;
    config_.experts = 3;
    config_.experts_per_token = 2;
    config_.block = model::Block::kPreNorm;
    model::VisitWeights(config_, weights_,
                        [&](const std::string&, const Shape& shape,
                            Tensor& t) { t = New(shape); });
  }
  Tensor New(const Shape& shape, DType dtype = DType::kF32) {
    auto& numbers = memory_.emplace_back(shape.size());
    for (float& x : numbers) x = next_ += 0.25f;
    return {numbers.data(), dtype, math::Device::kCpu, shape};
  }
  // The files' tensors by the names of the table.
  std::vector<NamedTensor> Table() {
    std::vector<NamedTensor> tensors;
    model::VisitWeights(config_, weights_,
                        [&](const std::string& name, const Shape&,
                            Tensor& t) { tensors.push_back({name, t}); });
    return tensors;
  }
  void Write(const std::vector<NamedTensor>& tensors) {
    ASSERT_TRUE(proto::MakeDirectories(folder_).ok());
    ASSERT_TRUE(proto::WriteFileAtomic(folder_ + "/config.json",
                                       model::WriteConfig(config_))
                    .ok());
    ASSERT_TRUE(
        WriteSafetensors(folder_ + "/model.safetensors", tensors).ok());
  }
  std::string folder_;
  model::ModelConfig config_;
  model::ModelWeights weights_;
  std::deque<std::vector<float>> memory_;
  float next_ = 0;
};

TEST_F(WeightMatch, VectorsAreWidenedMatricesStay) {
  std::vector<NamedTensor> tensors = Table();
  std::deque<std::vector<uint16_t>> halves;
  for (NamedTensor& t : tensors) {
    auto& bits = halves.emplace_back(t.tensor.size());
    const bool f16 = t.name.find("layers.1") != std::string::npos;
    for (size_t i = 0; i < bits.size(); ++i) {
      // 1.5 and -2 in f16; any number in bf16.
      bits[i] = f16 ? (i % 2 == 0 ? 0x3e00 : 0xc000)
                    : math::NarrowBf16(t.tensor.f32()[i]);
    }
    t.tensor.data = bits.data();
    t.tensor.dtype = f16 ? DType::kF16 : DType::kBF16;
  }
  Write(tensors);
  const auto loaded = LoadModel(folder_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const model::ModelWeights& w = (*loaded)->weights;
  EXPECT_EQ(w.embed.dtype, DType::kBF16);
  EXPECT_EQ(w.layers[1].q.dtype, DType::kF16);
  EXPECT_EQ(w.layers[0].ffn_norm.dtype, DType::kF32);
  EXPECT_EQ(w.layers[0].ffn_norm.f32()[3],
            math::WidenBf16(math::NarrowBf16(
                weights_.layers[0].ffn_norm.f32()[3])));
  EXPECT_EQ(w.layers[1].ffn_norm.f32()[0], 1.5f);
  EXPECT_EQ(w.layers[1].ffn_norm.f32()[1], -2.0f);
  EXPECT_TRUE(CheckFinite((*loaded)->config, w).ok());
  EXPECT_TRUE(model::CheckWeights((*loaded)->config, w).ok());
}

// transformers 5's own layout, by its names, for both kinds of mixtures.
TEST_F(WeightMatch, FusedExpertsAreTakenApart) {
  for (const bool mixtral : {false, true}) {
    SCOPED_TRACE(mixtral);
    if (mixtral) {
      config_.qk_norm = model::QkNorm::kNone;
      config_.renormalise = true;
    }
    std::vector<NamedTensor> tensors;
    for (NamedTensor& t : Table()) {
      if (t.name.find(".experts.") != std::string::npos) continue;
      const size_t at = t.name.find("block_sparse_moe");
      if (at != std::string::npos) t.name.replace(at, 16, "mlp");
      tensors.push_back(t);
    }
    std::vector<Tensor> both, down;
    for (int l = 0; l < 2; ++l) {
      const std::string prefix =
          absl::StrCat("model.layers.", l, ".mlp.experts.");
      both.push_back(New({3, 12, 8}));
      down.push_back(New({3, 8, 6}));
      tensors.push_back({prefix + "gate_up_proj", both.back()});
      tensors.push_back({prefix + "down_proj", down.back()});
    }
    Write(tensors);
    const auto loaded = LoadModel(folder_);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    for (int l = 0; l < 2; ++l) {
      for (int e = 0; e < 3; ++e) {
        const model::FfnWeights& ffn =
            (*loaded)->weights.layers[l].experts[e];
        const float* start = both[l].f32() + e * 12 * 8;
        EXPECT_EQ(memcmp(ffn.gate.data, start, ffn.gate.bytes()), 0);
        EXPECT_EQ(memcmp(ffn.up.data, start + 6 * 8, ffn.up.bytes()), 0);
        EXPECT_EQ(memcmp(ffn.down.data, down[l].f32() + e * 8 * 6,
                         ffn.down.bytes()),
                  0);
      }
    }
    tensors.back().tensor.shape = {3, 6, 8};
    Write(tensors);
    const auto refused = LoadModel(folder_);
    ASSERT_FALSE(refused.ok());
    EXPECT_THAT(std::string(refused.status().message()),
                HasSubstr("mlp.experts.down_proj is [3, 6, 8], not [3, 8, "
                          "6]"));
  }
}

TEST_F(WeightMatch, NumbersThatAreNoneAreNamedWithTheirPlace) {
  EXPECT_TRUE(CheckFinite(config_, weights_).ok());
  weights_.layers[1].k.f32()[3 * 8 + 5] = std::nanf("");
  weights_.layers[1].k.f32()[3 * 8 + 7] = std::nanf("");
  weights_.final_norm.f32()[2] = -std::numeric_limits<float>::infinity();
  const absl::Status status = CheckFinite(config_, weights_);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  const std::string message(status.message());
  EXPECT_THAT(message,
              HasSubstr("model.layers.1.self_attn.k_proj.weight at [3, 5]"));
  EXPECT_THAT(message, HasSubstr("model.norm.weight at [2]"));
  EXPECT_THAT(message, testing::Not(HasSubstr("layers.0")));
}

TEST_F(WeightMatch, OtherWorkIsDoneOnceBesideTheCheck) {
  int calls = 0;
  EXPECT_TRUE(CheckFinite(config_, weights_, [&] { ++calls; }).ok());
  EXPECT_EQ(calls, 1);
  weights_.final_norm.f32()[0] = std::nanf("");
  EXPECT_FALSE(CheckFinite(config_, weights_, [&] { ++calls; }).ok());
  EXPECT_EQ(calls, 2);
}

// Every place of a tensor of several pieces, in each dtype.
TEST_F(WeightMatch, NoPlaceIsOverlooked) {
  config_.vocabulary = 300000;
  std::vector<uint16_t> bits(300000 * 8, 0x1234);
  weights_.embed = {bits.data(), DType::kBF16, math::Device::kCpu,
                    {300000, 8}};
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    weights_.embed.dtype = dtype;
    EXPECT_TRUE(CheckFinite(config_, weights_).ok());
    for (const size_t at : {size_t{0}, size_t{255}, size_t{1} << 20,
                            (size_t{2} << 20) - 1, bits.size() - 1}) {
      bits[at] = dtype == DType::kBF16 ? 0x7f80 : 0xfc01;
      EXPECT_THAT(std::string(CheckFinite(config_, weights_).message()),
                  HasSubstr(absl::StrCat("embed_tokens.weight at [", at / 8,
                                         ", ", at % 8, "]")));
      bits[at] = 0x1234;
    }
  }
}

}  // namespace
}  // namespace motet::package
