// SPDX-License-Identifier: Apache-2.0
// A real model, SmolLM2-135M, against transformers in float32 (fixture
// real): negative log-likelihoods of eight domains' texts token by token,
// next-token logits and greedy continuations. The model is not part of the
// repository: MOTET_MODELS names the folder that holds smollm2-135m.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compose/model/decoder.h"
#include "compose/model/sampler.h"
#include "compose/package/huggingface.h"
#include "compose/package/weight_match.h"
#include "gtest/gtest.h"
#include "tests/golden/fixtures.h"

namespace motet::golden {
namespace {

namespace fs = std::filesystem;
using math::Tensor;
using model::Batch;
using model::SequenceInput;

class RealTest : public testing::Test {
 protected:
  void SetUp() override {
    MOTET_GOLDEN_OR_SKIP();
    if (!fs::exists(*Folder() + "/real.safetensors")) {
      GTEST_SKIP() << "no real.safetensors in " << *Folder();
    }
    const char* models = std::getenv("MOTET_MODELS");
    const std::string folder =
        std::string(models == nullptr ? "." : models) + "/smollm2-135m";
    if (!fs::exists(folder)) {
      GTEST_SKIP() << "no model at " << folder
                   << "; MOTET_MODELS names the folder that holds it";
    }
    fixture_ = std::make_unique<Fixture>("real");
    ASSERT_TRUE(fixture_->ok());
    auto loaded = package::LoadModel(folder);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    loaded_ = *std::move(loaded);
    auto decoder =
        model::Decoder::Create(loaded_->config, loaded_->weights,
                               model::RouterOf(loaded_->config));
    ASSERT_TRUE(decoder.ok()) << decoder.status();
    decoder_ = std::make_unique<model::Decoder>(*std::move(decoder));
  }
  math::Exec MakeExec() {
    return math::Exec(math::Cpu(), arena_, math::Product::kExact);
  }
  std::unique_ptr<Fixture> fixture_;
  std::unique_ptr<package::LoadedModel> loaded_;
  std::unique_ptr<model::Decoder> decoder_;
  math::Arena arena_;
};

TEST_F(RealTest, EveryNumberIsFinite) {
  EXPECT_TRUE(
      package::CheckFinite(loaded_->config, loaded_->weights).ok());
  EXPECT_EQ(model::CountParameters(loaded_->config), 134515008);
}

TEST_F(RealTest, LikelihoodsOfEightDomains) {
  int domains = 0;
  for (const auto& [domain, means] : fixture_->meta()["domains"].items()) {
    SCOPED_TRACE(domain);
    ++domains;
    const std::vector<int32_t> ids = fixture_->Ids("ids." + domain);
    const std::vector<double> want = fixture_->Doubles("nll." + domain);
    const int64_t tokens = fixture_->ShapeOf("ids." + domain).dim[1];
    double worst = 0, mean = 0;
    for (size_t row = 0; row * tokens < ids.size(); ++row) {
      arena_.Reset();
      math::Exec exec = MakeExec();
      const SequenceInput input = {
          std::span(ids).subspan(row * tokens, tokens)};
      const Batch batch({&input, 1});
      const Tensor logits =
          decoder_->Logits(exec, decoder_->Forward(exec, batch));
      std::vector<int32_t> targets(input.ids.begin() + 1, input.ids.end());
      targets.push_back(-1);
      Tensor nll;
      exec.CrossEntropy(logits, targets, 0, &nll);
      for (int64_t t = 0; t + 1 < tokens; ++t) {
        const double expected = want[row * (tokens - 1) + t];
        worst = std::max(worst, std::abs(nll.f32()[t] - expected));
        mean += nll.f32()[t] / static_cast<double>(want.size());
      }
    }
    EXPECT_LE(worst, 1e-3);
    EXPECT_NEAR(mean, means["mean_nll"].get<double>(), 1e-4);
    RecordProperty(domain, std::to_string(std::exp(mean)));
  }
  EXPECT_EQ(domains, 8);
}

TEST_F(RealTest, LogitsAndGreedyContinuations) {
  int prompts = 0;
  for (const auto& greedy : fixture_->meta()["greedy"]) {
    SCOPED_TRACE(greedy["prompt"].get<std::string>());
    std::vector<int32_t> ids = greedy["prompt_ids"].get<std::vector<int32_t>>();
    if (loaded_->tokenizer != nullptr) {
      EXPECT_EQ(loaded_->tokenizer->Encode(greedy["prompt"].get<std::string>()),
                ids);
    }
    const auto want = greedy["ids"].get<std::vector<int32_t>>();
    const size_t compare = greedy["compare_first"].get<size_t>();
    model::SequenceCache cache(loaded_->config, 64, 1);
    for (size_t step = 0; step < std::max<size_t>(compare, 1); ++step) {
      arena_.Reset();
      math::Exec exec = MakeExec();
      const SequenceInput input = {
          std::span<const int32_t>(ids).subspan(cache.length()), &cache};
      const Batch batch({&input, 1});
      const Tensor hidden = decoder_->Forward(exec, batch);
      const std::span<const float> logits = Values(
          decoder_->Logits(exec, hidden.RowSlice(hidden.rows() - 1, 1)));
      if (step == 0) {
        EXPECT_TRUE(Close(
            logits, fixture_->Doubles("logits." + std::to_string(prompts)),
            1e-4));
      }
      model::SamplerOptions options;
      options.temperature = 0;
      const int32_t next = model::Sample(logits, options, ids.size());
      if (step < compare) {
        ASSERT_EQ(next, want[step]) << "token " << step;
      }
      ids.push_back(next);
    }
    ++prompts;
  }
  EXPECT_EQ(prompts, 5);
}

}  // namespace
}  // namespace motet::golden
