// SPDX-License-Identifier: Apache-2.0
// Steps of an adapter's training against peft and PyTorch: losses and gradient
// norms of eight steps from the fixture's adapter, with documents that are
// relevant to several queries, hard negatives, clipping, warm-up and decay.
// The numbers are those that tests/peers/peft_train.py prints.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compose/learn/adapter_run.h"
#include "compose/learn/schedule.h"
#include "compose/package/encoder_folder.h"
#include "compose/package/peft.h"
#include "gtest/gtest.h"
#include "tests/golden/fixtures.h"

namespace motet::golden {
namespace {

using learn::AdapterBatch;
using math::DType;
using math::Tensor;

constexpr int64_t kSteps = 8;
constexpr int64_t kQueries = 40, kDocuments = 60;

struct Want {
  double loss, norm;
};
// PyTorch 2.15, peft 0.21, f32.
constexpr Want kWant[kSteps] = {
    {3.20259190, 0.96490049}, {3.15313315, 1.16668665},
    {3.22270179, 1.24500084}, {3.18591523, 1.28591776},
    {3.14460468, 1.38270485}, {3.10858583, 1.04645884},
    {3.06400967, 0.97091132}, {3.01973009, 1.02061665},
};

// Ids that a rule makes; some queries are longer, none is padded.
std::vector<int32_t> Ids(int64_t row, int64_t least, int64_t spread) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < least + row * 7 % spread; ++t) {
    ids.push_back(
        static_cast<int32_t>(5 + (row * 7919 + t * 1543 + 17) % 206));
  }
  return ids;
}

// What a step was, for the peer.
void Keep(const AdapterBatch& batch, int64_t step,
          std::vector<std::unique_ptr<std::vector<int32_t>>>& storage,
          std::vector<package::NamedTensor>& file) {
  const auto add = [&](const char* name, std::vector<int32_t> values,
                       const math::Shape& shape) {
    storage.push_back(
        std::make_unique<std::vector<int32_t>>(std::move(values)));
    file.push_back({absl::StrCat(step, ".", name),
                    Tensor{storage.back()->data(), DType::kI32,
                           math::Device::kCpu, shape}});
  };
  const auto queries = static_cast<int64_t>(batch.queries.size());
  const auto columns = static_cast<int64_t>(batch.columns.size());
  int64_t longest = 0;
  for (const auto& ids : batch.queries) {
    longest = std::max<int64_t>(longest, std::ssize(ids));
  }
  std::vector<int32_t> ids, mask;
  for (const auto& query : batch.queries) {
    for (int64_t t = 0; t < longest; ++t) {
      const bool there = t < std::ssize(query);
      ids.push_back(there ? query[static_cast<size_t>(t)] : 0);
      mask.push_back(there ? 1 : 0);
    }
  }
  add("ids", ids, {queries, longest});
  add("mask", mask, {queries, longest});
  add("columns", {batch.columns.begin(), batch.columns.end()}, {columns});
  add("targets", batch.targets, {queries});
  add("masked", {batch.masked.begin(), batch.masked.end()},
      {queries, columns});
}

class AdapterTest : public testing::TestWithParam<math::Product> {};

// With MOTET_KEEP, everything that the peer needs is written there.
TEST_P(AdapterTest, StepsArePefts) {
  MOTET_GOLDEN_OR_SKIP();
  // The numbers above are of one set of weights.
  std::ifstream versions(*Folder() + "/versions.json");
  const int64_t seed =
      nlohmann::json::parse(versions, nullptr, false).value("seed", int64_t{0});
  if (seed != 20261122 && std::getenv("MOTET_KEEP") == nullptr) {
    GTEST_SKIP() << "fixtures of seed " << seed << "; make the numbers anew "
                 << "with MOTET_KEEP and tests/peers/peft_train.py";
  }
  const std::string folder = *Folder() + "/models/bert";
  auto loaded = package::LoadEncoder(folder);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const model::EncoderConfig& config = (*loaded)->config;
  auto start = package::LoadLora(folder + "/lora", config);
  ASSERT_TRUE(start.ok()) << start.status();
  auto encoder = model::Encoder::Create(config, (*loaded)->weights, false);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  // A copy: the fixture's lies in a file.
  learn::OwnedLora lora =
      learn::InitialLora(config, (*start)->lora.config, 1);
  const auto from = learn::AdapterParameters(config, (*start)->lora);
  const auto to = learn::AdapterParameters(config, lora.lora);
  for (size_t p = 0; p < to.size(); ++p) {
    std::copy(from[p].value.f32(), from[p].value.f32() + from[p].value.size(),
              static_cast<float*>(to[p].value.data));
  }

  learn::AdapterData data;
  for (int64_t q = 0; q < kQueries; ++q) {
    data.queries.push_back(Ids(q, 3, 9));
    data.relevant.push_back({q});
    if (q % 3 == 0) data.relevant.back().push_back(q + 1);
    data.hard.push_back({(q + 5) % 39, 40 + q % 5, 50 + q % 7});
    std::sort(data.hard.back().begin(), data.hard.back().end());
  }
  std::vector<std::vector<int32_t>> texts;
  std::vector<model::EncoderInput> inputs;
  for (int64_t d = 0; d < kDocuments; ++d) texts.push_back(Ids(d, 9, 20));
  for (const auto& ids : texts) inputs.push_back({ids, {}});
  std::vector<float> vectors(kDocuments * config.width);
  ASSERT_TRUE(encoder
                  ->Encode(math::Cpu(), math::Product::kExact, inputs, nullptr,
                           vectors.data())
                  .ok());
  data.documents = vectors;
  learn::AdapterOptions options;
  options.batch_queries = 16;
  options.hard_negatives = 2;
  const Tensor documents = {vectors.data(), DType::kF32, math::Device::kCpu,
                            {kDocuments, config.width}};
  learn::AdapterStepOptions step;
  step.temperature = 5;
  step.product = GetParam();
  learn::AdapterStepper stepper(*encoder, lora.lora, documents, step);
  learn::Schedule schedule;
  schedule.steps = kSteps;
  schedule.warmup_steps = 2;
  schedule.peak = 1e-2;
  schedule.final_fraction = 0;
  schedule.shape = learn::ScheduleShape::kLinear;

  std::vector<std::unique_ptr<std::vector<int32_t>>> storage;
  std::vector<package::NamedTensor> file = {{"documents", documents}};
  int64_t masked = 0;
  for (int64_t s = 0; s < kSteps; ++s) {
    const AdapterBatch batch = learn::AdapterBatchAt(data, options, s);
    for (uint8_t gone : batch.masked) masked += gone;
    Keep(batch, s, storage, file);
    learn::StepResult result = stepper.Gradients(batch, {});
    EXPECT_NEAR(result.loss, kWant[s].loss, 1e-4 * kWant[s].loss) << s;
    EXPECT_NEAR(result.gradient_norm, kWant[s].norm, 1e-4 * kWant[s].norm)
        << s;
    stepper.Apply(result, LearningRate(schedule, s + 1));
  }
  EXPECT_GT(masked, 0);
  const char* keep = std::getenv("MOTET_KEEP");
  if (keep == nullptr) return;
  std::filesystem::create_directories(keep);
  ASSERT_TRUE(package::WriteSafetensors(absl::StrCat(keep, "/steps.safetensors"),
                                        std::move(file))
                  .ok());
  ASSERT_TRUE(package::SaveLora(absl::StrCat(keep, "/trained"), config,
                                lora.lora)
                  .ok());
}

INSTANTIATE_TEST_SUITE_P(Products, AdapterTest,
                         testing::Values(math::Product::kExact,
                                         math::Product::kLibrary));

}  // namespace
}  // namespace motet::golden
