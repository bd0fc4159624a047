// SPDX-License-Identifier: Apache-2.0
// The BERT encoder and its LoRA adapter against transformers and peft
// (fixtures models/bert): vectors of queries and documents, contrastive loss
// and the adapter's gradients; and MiniLM's vectors (fixture real).
#include "compose/model/encoder.h"

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compose/learn/tape.h"
#include "compose/package/encoder_folder.h"
#include "compose/package/peft.h"
#include "gtest/gtest.h"
#include "tests/golden/fixtures.h"

namespace motet::golden {
namespace {

using math::Exec;
using math::Kernels;
using math::Product;
using math::Tensor;
using model::Encoder;
using model::EncoderBatch;
using model::EncoderInput;

constexpr double kTolerance = 1e-4;

struct Way {
  const char* name;
  bool reference;
  Product product;
};
constexpr Way kWays[] = {{"Reference", true, Product::kExact},
                         {"CpuExact", false, Product::kExact},
                         {"CpuLibrary", false, Product::kLibrary}};

class EncoderTest : public testing::TestWithParam<Way> {
 protected:
  const Kernels& kernels() const {
    return GetParam().reference ? math::Reference() : math::Cpu();
  }
  // Loads models/bert with its adapter.
  void Load() {
    const std::string folder = *Folder() + "/models/bert";
    auto loaded = package::LoadEncoder(folder);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    loaded_ = *std::move(loaded);
    EXPECT_FALSE(loaded_->normalise);
    auto lora = package::LoadLora(folder + "/lora", loaded_->config);
    ASSERT_TRUE(lora.ok()) << lora.status();
    lora_ = *std::move(lora);
    auto encoder =
        Encoder::Create(loaded_->config, loaded_->weights, loaded_->normalise);
    ASSERT_TRUE(encoder.ok()) << encoder.status();
    encoder_ = std::make_unique<Encoder>(*std::move(encoder));
  }
  // Rows of ids [B,T]; of each, as many as its mask has ones.
  static std::vector<std::vector<int32_t>> Rows(
      const std::vector<int32_t>& ids, int64_t tokens,
      const std::vector<int32_t>& mask) {
    std::vector<std::vector<int32_t>> rows;
    for (size_t at = 0; at < ids.size(); at += tokens) {
      rows.emplace_back();
      for (int64_t i = 0; i < tokens; ++i) {
        if (mask.empty() || mask[at + i] == 1) {
          rows.back().push_back(ids[at + i]);
        }
      }
    }
    return rows;
  }
  static std::vector<EncoderInput> Inputs(
      const std::vector<std::vector<int32_t>>& rows) {
    std::vector<EncoderInput> inputs;
    for (const auto& row : rows) inputs.push_back({row, {}});
    return inputs;
  }
  std::vector<float> Encode(const std::vector<std::vector<int32_t>>& rows,
                            const model::Lora* lora) {
    std::vector<float> out(rows.size() * loaded_->config.width);
    const absl::Status status = encoder_->Encode(
        kernels(), GetParam().product, Inputs(rows), lora, out.data());
    EXPECT_TRUE(status.ok()) << status;
    return out;
  }

  std::unique_ptr<package::LoadedEncoder> loaded_;
  std::unique_ptr<package::LoadedLora> lora_;
  std::unique_ptr<Encoder> encoder_;
};

TEST_P(EncoderTest, VectorsAreTransformers) {
  MOTET_GOLDEN_OR_SKIP();
  Load();
  ASSERT_NE(encoder_, nullptr);
  const Fixture golden("models/bert/golden");
  ASSERT_TRUE(golden.ok());
  const auto queries =
      Rows(golden.Ids("input_ids"), golden.ShapeOf("input_ids").dim[1],
           golden.Ids("attention_mask"));
  const auto docs =
      Rows(golden.Ids("doc_ids"), golden.ShapeOf("doc_ids").dim[1], {});
  EXPECT_TRUE(Close(Encode(queries, nullptr), golden.Doubles("base_queries"),
                    kTolerance));
  EXPECT_TRUE(
      Close(Encode(docs, nullptr), golden.Doubles("base_docs"), kTolerance));
  EXPECT_TRUE(Close(Encode(queries, &lora_->lora),
                    golden.Doubles("lora_queries"), kTolerance));
  // The base is as it was.
  EXPECT_TRUE(Close(Encode(queries, nullptr), golden.Doubles("base_queries"),
                    kTolerance));
}

TEST_P(EncoderTest, LossAndAdapterGradientsArePefts) {
  MOTET_GOLDEN_OR_SKIP();
  Load();
  ASSERT_NE(encoder_, nullptr);
  const Fixture golden("models/bert/golden");
  ASSERT_TRUE(golden.ok());
  const auto queries =
      Rows(golden.Ids("input_ids"), golden.ShapeOf("input_ids").dim[1],
           golden.Ids("attention_mask"));
  std::vector<float> docs =
      Encode(Rows(golden.Ids("doc_ids"), golden.ShapeOf("doc_ids").dim[1], {}),
             nullptr);
  const auto count = static_cast<int64_t>(queries.size());
  Tensor documents;
  documents.data = docs.data();
  documents.shape = {count, loaded_->config.width};

  math::Arena arena;
  learn::Tape tape(arena);
  std::vector<std::pair<std::string, Tensor>> parameters;
  model::VisitLora(
      loaded_->config, lora_->lora,
      [&](const std::string& name, const math::Shape&, Tensor& tensor) {
        tape.Watch(tensor);
        parameters.emplace_back(name, tensor);
      });
  Exec exec(kernels(), arena, GetParam().product, &tape);
  const auto inputs = Inputs(queries);
  const EncoderBatch batch(inputs);
  const Tensor q =
      encoder_->Pool(exec, batch, encoder_->Forward(exec, batch, &lora_->lora));
  const auto temperature = golden.meta()["temperature"].get<float>();
  const Tensor scores =
      exec.AddScaled({}, 1 / temperature, exec.Linear(q, documents));
  std::vector<int32_t> targets(count);
  for (int64_t i = 0; i < count; ++i) targets[i] = static_cast<int32_t>(i);
  const double loss = exec.CrossEntropy(scores, targets, 0);
  const auto want = golden.meta()["contrastive_loss"].get<double>();
  EXPECT_NEAR(loss, want, kTolerance * want);
  tape.Backward();
  ASSERT_FALSE(parameters.empty());
  for (const auto& [name, tensor] : parameters) {
    EXPECT_TRUE(Close(Values(tape.Gradient(tensor)),
                      golden.Doubles("grad." + name), kTolerance))
        << name;
  }
}

// With MOTET_KEEP, the encoder, an adapter on every map and our vectors are
// written there, for tests/peers/peft_adapter.py.
TEST_P(EncoderTest, WhatIsWrittenLoadsAgain) {
  MOTET_GOLDEN_OR_SKIP();
  Load();
  ASSERT_NE(encoder_, nullptr);
  const char* keep = std::getenv("MOTET_KEEP");
  const std::string folder =
      keep != nullptr ? keep
                      : testing::TempDir() + "encoder_" + GetParam().name;
  std::filesystem::create_directories(folder);
  // The fixture's adapter is on two maps; this one on all, made of numbers of
  // the base.
  const model::EncoderConfig& config = loaded_->config;
  model::Lora lora;
  lora.config = {3, 4, 0, {"query", "key", "value", "dense"}};
  const float* from = loaded_->weights.words.f32();
  model::VisitLora(
      config, lora,
      [&](const std::string&, const math::Shape& shape, Tensor& tensor) {
        tensor = {const_cast<float*>(from), math::DType::kF32,
                  math::Device::kCpu, shape};
        from += shape.size() / 8;
      });
  ASSERT_TRUE(package::SaveLora(folder + "/adapter", config, lora).ok());
  ASSERT_TRUE(package::SaveEncoder(folder + "/encoder", config,
                                   loaded_->weights, false,
                                   config.max_positions)
                  .ok());
  const Fixture golden("models/bert/golden");
  ASSERT_TRUE(golden.ok());
  std::vector<int32_t> ids = golden.Ids("input_ids");
  std::vector<int32_t> mask = golden.Ids("attention_mask");
  const auto rows = Rows(ids, golden.ShapeOf("input_ids").dim[1], mask);
  std::vector<float> base = Encode(rows, nullptr);
  std::vector<float> adapted = Encode(rows, &lora);

  auto written = package::LoadEncoder(folder + "/encoder");
  ASSERT_TRUE(written.ok()) << written.status();
  auto adapter = package::LoadLora(folder + "/adapter", config);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  auto again = Encoder::Create((*written)->config, (*written)->weights, false);
  ASSERT_TRUE(again.ok()) << again.status();
  *encoder_ = *std::move(again);
  EXPECT_EQ(Encode(rows, &(*adapter)->lora), adapted);
  if (keep == nullptr) {
    std::filesystem::remove_all(folder);
    return;
  }
  const auto tensor = [](auto& values, math::DType dtype,
                         const math::Shape& shape) {
    return Tensor{values.data(), dtype, math::Device::kCpu, shape};
  };
  const math::Shape tokens = golden.ShapeOf("input_ids");
  const math::Shape vectors = {tokens.dim[0], config.width};
  ASSERT_TRUE(package::WriteSafetensors(
                  folder + "/vectors.safetensors",
                  {{"ids", tensor(ids, math::DType::kI32, tokens)},
                   {"mask", tensor(mask, math::DType::kI32, tokens)},
                   {"base", tensor(base, math::DType::kF32, vectors)},
                   {"adapted", tensor(adapted, math::DType::kF32, vectors)}})
                  .ok());
}

// $MOTET_MODELS/minilm-l6, the real model; ids are the fixture's.
TEST_P(EncoderTest, MiniLmsVectorsAreTransformers) {
  MOTET_GOLDEN_OR_SKIP();
  const char* models = std::getenv("MOTET_MODELS");
  const std::string folder =
      std::string(models == nullptr ? "" : models) + "/minilm-l6";
  if (models == nullptr || !std::filesystem::exists(folder)) {
    GTEST_SKIP() << "no real models: set MOTET_MODELS to a folder that "
                    "shared/tools/reference_models.py wrote";
  }
  if (!std::filesystem::exists(*Folder() + "/real.json")) {
    GTEST_SKIP() << "no fixture real.json in " << *Folder();
  }
  auto loaded = package::LoadEncoder(folder);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE((*loaded)->normalise);
  EXPECT_EQ((*loaded)->max_tokens, 256);
  loaded_ = *std::move(loaded);
  const Fixture golden("real");
  ASSERT_TRUE(golden.ok());
  const auto rows =
      golden.meta()["minilm"]["ids"].get<std::vector<std::vector<int32_t>>>();
  // The fixture's vectors are from before normalisation.
  auto encoder = Encoder::Create(loaded_->config, loaded_->weights, false);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  encoder_ = std::make_unique<Encoder>(*std::move(encoder));
  const std::vector<float> got = Encode(rows, nullptr);
  EXPECT_TRUE(Close(got, golden.Doubles("minilm.mean_pooled"), kTolerance));
}

INSTANTIATE_TEST_SUITE_P(Ways, EncoderTest, testing::ValuesIn(kWays),
                         [](const auto& info) {
                           return std::string(info.param.name);
                         });

}  // namespace
}  // namespace motet::golden
