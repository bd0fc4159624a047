// SPDX-License-Identifier: Apache-2.0
// Eight AdamW steps of PyTorch, step by step: losses and their parts,
// gradient norms, learning rates and the weights afterwards, for a dense
// model and for an owner's run.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "compose/learn/schedule.h"
#include "compose/learn/step.h"
#include "compose/learn/trainer.h"
#include "compose/package/huggingface.h"
#include "compose/package/safetensors.h"
#include "nlohmann/json.hpp"

namespace motet::learn {
namespace {

namespace fs = std::filesystem;
using math::Tensor;
using nlohmann::json;

// The fixtures' folder: MOTET_GOLDEN, or golden in the shared folder, which
// is MOTET_SHARED or lies beside the source; empty when there is none.
std::string GoldenFolder() {
  if (const char* set = std::getenv("MOTET_GOLDEN")) return set;
  if (const char* shared = std::getenv("MOTET_SHARED")) {
    return std::string(shared) + "/golden";
  }
  const char* source = std::getenv("MOTET_SOURCE");
  for (fs::path at = source ? source : fs::current_path();
       at.has_relative_path(); at = at.parent_path()) {
    const fs::path golden = at / "shared" / "golden";
    if (fs::exists(golden)) return golden.string();
  }
  return "";
}

class TrainingTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = GoldenFolder();
    if (!fs::exists(folder_ + "/training")) {
      GTEST_SKIP() << "no reference fixtures (MOTET_GOLDEN, MOTET_SHARED)";
    }
  }
  void Read(const std::string& name) {
    const std::string stem = folder_ + "/training/" + name;
    auto opened = package::SafetensorsFile::Open(stem + ".safetensors");
    ASSERT_TRUE(opened.ok()) << opened.status();
    file_ = *opened;
    std::ifstream in(stem + ".json");
    meta_ = json::parse(in);
    const Tensor batches = file_->Find("batches");
    ASSERT_EQ(batches.dtype, math::DType::kI64);
    batch_ = batches.shape.dim[1];
    window_ = batches.shape.dim[2];
    const auto* ids = static_cast<const int64_t*>(batches.data);
    ids_.assign(ids, ids + batches.size());
    steps_ = batches.shape.dim[0];
    ASSERT_EQ(meta_["losses"].size(), static_cast<size_t>(steps_));
  }
  std::vector<std::span<const int32_t>> Batch(int64_t step) const {
    std::vector<std::span<const int32_t>> sequences;
    for (int64_t b = 0; b < batch_; ++b) {
      sequences.push_back(std::span(ids_).subspan(
          static_cast<size_t>((step * batch_ + b) * window_),
          static_cast<size_t>(window_)));
    }
    return sequences;
  }
  // Runs all steps and compares what each reports.
  void Run(const model::Decoder& decoder, std::vector<Parameter> parameters,
           const StepOptions& options) {
    Stepper stepper(decoder, std::move(parameters), options);
    const Schedule schedule = {steps_, meta_["warmup_steps"], meta_["lr"],
                               meta_["final_lr_fraction"]};
    for (int64_t step = 0; step < steps_; ++step) {
      SCOPED_TRACE(step);
      const auto at = static_cast<size_t>(step);
      const double rate = LearningRate(schedule, step + 1);
      EXPECT_NEAR(rate, meta_["lrs"][at].get<double>(), 1e-12);
      const StepResult result = stepper.Step(Batch(step), rate);
      EXPECT_TRUE(result.applied);
      EXPECT_NEAR(result.loss, meta_["losses"][at].get<double>(), 1e-4);
      const double norm = meta_["grad_norms_before_clip"][at];
      EXPECT_NEAR(result.gradient_norm, norm, 1e-3 * norm);
      if (!meta_.contains("ce_routerz_lmz")) continue;
      const json& parts = meta_["ce_routerz_lmz"][at];
      EXPECT_NEAR(result.cross_entropy, parts[0].get<double>(), 1e-4);
      EXPECT_NEAR(result.router_z, parts[1].get<double>(),
                  1e-4 * parts[1].get<double>());
      EXPECT_NEAR(result.lm_z, parts[2].get<double>(),
                  1e-4 * parts[2].get<double>());
    }
  }
  void ExpectNear(const Tensor& got, const std::string& name) {
    const Tensor want = file_->Find(name);
    ASSERT_FALSE(want.empty()) << name;
    ASSERT_EQ(got.size(), want.size()) << name;
    double worst = 0;
    for (int64_t i = 0; i < got.size(); ++i) {
      worst = std::max(
          worst, std::abs(double{got.f32()[i]} - double{want.f32()[i]}));
    }
    EXPECT_LE(worst, 1e-4) << name;
  }

  std::string folder_;
  std::shared_ptr<const package::SafetensorsFile> file_;
  json meta_;
  std::vector<int32_t> ids_;
  int64_t steps_ = 0, batch_ = 0, window_ = 0;
};

TEST_F(TrainingTest, AdamwLlama) {
  Read("adamw_llama");
  auto loaded = package::LoadModel(folder_ + "/models/llama");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  OwnedModel model = CopyModel((*loaded)->config, (*loaded)->weights);
  auto decoder = model::Decoder::Create(model.config, model.weights, {});
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  StepOptions options;
  options.clip_norm = meta_["clip_norm"];
  options.weight_decay = meta_["weight_decay"];
  const std::vector<Parameter> parameters = DenseParameters(model);
  Run(*decoder, parameters, options);
  for (const Parameter& p : parameters) ExpectNear(p.value, "final." + p.name);
}

TEST_F(TrainingTest, FlexolmoOwner) {
  Read("flexolmo_owner");
  auto base = package::LoadModel(folder_ + "/models/flex_olmo");
  ASSERT_TRUE(base.ok()) << base.status();
  OwnerExpert expert = NewOwnerExpert(**base);
  const auto layer_name = [](size_t l) {
    return "model.layers." + std::to_string(l) + ".mlp.";
  };
  for (size_t l = 0; l < expert.layers.size(); ++l) {
    OwnerExpert::Layer& layer = expert.layers[l];
    const model::LayerWeights& from = (*base)->weights.layers[l];
    Widen(from.experts[0].gate, layer.ffn.gate);
    Widen(from.experts[0].up, layer.ffn.up);
    Widen(from.experts[0].down, layer.ffn.down);
    Widen(from.router.RowSlice(1, 1), layer.row);
    layer.bias.f32()[0] = -0.01f;
    ExpectNear(layer.router, "start." + layer_name(l) + "gate.weight");
    ExpectNear(layer.ffn.down,
               "start." + layer_name(l) + "experts.1.down_proj.weight");
  }
  auto decoder = PairDecoder(**base, expert);
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  StepOptions options;
  options.router_z_weight = 1e-3;
  options.lm_z_weight = 1e-5;
  options.clip_norm = meta_["clip_norm"];
  options.weight_decay = meta_["weight_decay"];
  Run(*decoder, OwnerParameters(expert), options);
  for (size_t l = 0; l < expert.layers.size(); ++l) {
    const OwnerExpert::Layer& layer = expert.layers[l];
    const std::string own = "final." + layer_name(l) + "experts.1.";
    ExpectNear(layer.ffn.gate, own + "gate_proj.weight");
    ExpectNear(layer.ffn.up, own + "up_proj.weight");
    ExpectNear(layer.ffn.down, own + "down_proj.weight");
    ExpectNear(layer.row, "final.router_row." + std::to_string(l));
    ExpectNear(layer.bias, "final.bias." + std::to_string(l));
    // The base's row is the base's, to the bit.
    const Tensor row = (*base)->weights.layers[l].router;
    for (int64_t c = 0; c < row.cols(); ++c) {
      EXPECT_EQ(layer.router.f32()[c], row.f32()[c]);
    }
  }
}

}  // namespace
}  // namespace motet::learn
