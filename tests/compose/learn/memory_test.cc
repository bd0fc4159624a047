// SPDX-License-Identifier: Apache-2.0
// The memory of a training step as it is stated against what it takes: the
// arenas' peaks of a real step, and the peak of resident memory of a process
// that does nothing but train (this program itself, started afresh).
#include "compose/learn/memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include "compose/learn/trainer.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

constexpr int64_t kSequences = 4, kTokens = 128;

// Some 600 MiB with its activations, so that 10 % of it are more than a
// process's own code and libraries.
model::ModelConfig Config() {
  model::ModelConfig config = toy::Config(model::Block::kPreNorm);
  config.vocabulary = 8192;
  config.width = 512;
  config.layers = 8;
  config.heads = 8;
  config.kv_heads = 4;
  config.head_dim = 64;
  config.ffn_width = 2048;
  config.max_positions = 512;
  return config;
}

TrainOptions Options(int64_t recompute) {
  TrainOptions options;
  options.steps = 1;
  options.batch_sequences = kSequences;
  options.sequence_tokens = kTokens;
  options.recompute_layers = recompute;
  return options;
}

// The base as it comes from a file in bf16.
struct NarrowBase {
  explicit NarrowBase(const model::ModelConfig& config) {
    model.config = config;
    VisitWeights(config, model.weights,
                 [&](const std::string&, const math::Shape& shape,
                     math::Tensor& t) {
                   const bool narrow = shape.rank > 1;
                   t = math::Tensor{};
                   t.shape = shape;
                   t.dtype =
                       narrow ? math::DType::kBF16 : math::DType::kF32;
                   storage.emplace_back(static_cast<size_t>(t.bytes()));
                   t.data = storage.back().data();
                   for (int64_t i = 0; i < t.size(); ++i) {
                     if (narrow) {
                       static_cast<uint16_t*>(t.data)[i] = math::NarrowBf16(
                           0.01f * static_cast<float>((i * 37) % 19 - 9));
                     } else {
                       t.f32()[i] = 1;
                     }
                   }
                 });
  }
  package::LoadedModel model;
  std::vector<std::vector<char>> storage;
};

int64_t PeakResident() {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) << 10;
  }
  return 0;
}

struct Measured {
  int64_t stated = 0, peak = 0;
};

// Beyond what the process had before it began: its code and libraries.
Measured Measure(bool owner, int64_t recompute) {
  const int64_t before = PeakResident();
  const TokenWindows text = toy::Windows(12, 1, kTokens);
  const TokenWindows other = toy::Windows(12, 2, kTokens);
  TrainResult result;
  if (owner) {
    const NarrowBase base(Config());
    OwnerOptions options;
    static_cast<TrainOptions&>(options) = Options(recompute);
    options.public_fraction = 0.5;
    options.router_z_weight = 1e-3;
    if (!TrainOwner(base.model, text, other, options, nullptr, &result).ok()) {
      return {};
    }
  } else {
    OwnedModel model = InitialModel(Config(), 3);
    auto trained = TrainDense(model, text, Options(recompute), nullptr);
    if (!trained.ok()) return {};
    result = *trained;
  }
  return {result.memory.total(), PeakResident() - before};
}

// Measures in a process of its own.
Measured InChild(bool owner, int64_t recompute) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "memory_test", "--measure-child",
          owner ? "1" : "0", std::to_string(recompute).c_str(),
          std::to_string(ends[1]).c_str(), nullptr);
    _exit(127);
  }
  close(ends[1]);
  Measured measured;
  EXPECT_EQ(read(ends[0], &measured, sizeof(measured)),
            static_cast<ssize_t>(sizeof(measured)));
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  close(ends[0]);
  return measured;
}

class MemoryTest
    : public testing::TestWithParam<std::tuple<bool, int64_t>> {};

TEST_P(MemoryTest, ResidentMemoryStaysWithinTheStatement) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer has memory of its own";
  const auto [owner, recompute] = GetParam();
  const Measured measured = InChild(owner, recompute);
  RecordProperty("stated_mib", static_cast<int>(measured.stated >> 20));
  RecordProperty("peak_mib", static_cast<int>(measured.peak >> 20));
  EXPECT_GT(measured.stated, int64_t{100} << 20);
  EXPECT_LE(measured.peak, measured.stated * 11 / 10)
      << (measured.peak >> 20) << " MiB resident, "
      << (measured.stated >> 20) << " stated";
  // Nor does it claim what is never used.
  EXPECT_GE(measured.peak, measured.stated * 9 / 10)
      << (measured.peak >> 20) << " MiB resident, "
      << (measured.stated >> 20) << " stated";
}

INSTANTIATE_TEST_SUITE_P(
    Runs, MemoryTest,
    testing::Combine(testing::Bool(), testing::Values(0, -1)),
    [](const auto& info) {
      const int64_t layers = std::get<1>(info.param);
      return std::string(std::get<0>(info.param) ? "Owner" : "Dense") +
             (layers == 0 ? "" : "RecomputeAll");
    });

TEST(StatementTest, IsThePeakOfTheArenas) {
  for (model::Block block : {model::Block::kPreNorm, model::Block::kPostNorm}) {
    OwnedModel model = toy::Model(toy::Config(block), 5);
    auto decoder = model::Decoder::Create(model.config, model.weights, {});
    ASSERT_TRUE(decoder.ok());
    const std::vector<Parameter> parameters = DenseParameters(model);
    const TokenWindows text = toy::Windows(12, 1, 24);
    for (int64_t recompute : {0, 1, -1}) {
      for (int64_t pieces : {1, 2, 3}) {
        StepOptions options;
        options.recompute_layers = recompute;
        options.accumulation = pieces;
        Stepper stepper(*decoder, parameters, options);
        std::vector<std::span<const int32_t>> batch;
        for (int64_t i = 0; i < 5; ++i) batch.push_back(text.at(i));
        stepper.Gradients(batch);
        const StepMemory memory =
            PlanStep(*decoder, parameters, options, 5, 24);
        EXPECT_EQ(memory.activations, stepper.peak_bytes());
        EXPECT_EQ(memory.weights,
                  4 * model::CountParameters(decoder->config()));
        EXPECT_EQ(memory.trained, 3 * memory.weights);
      }
    }
  }
}

TEST(StatementTest, RecomputesAsFewLayersAsFit) {
  OwnedModel model = InitialModel(Config(), 3);
  auto decoder = model::Decoder::Create(model.config, model.weights, {});
  ASSERT_TRUE(decoder.ok());
  const std::vector<Parameter> parameters = DenseParameters(model);
  const auto total = [&](int64_t layers) {
    StepOptions options;
    options.recompute_layers = layers;
    return PlanStep(*decoder, parameters, options, kSequences, kTokens)
        .total();
  };
  const auto needed = [&](int64_t bytes) {
    return LayersToRecompute(*decoder, parameters, {}, kSequences, kTokens,
                             bytes);
  };
  EXPECT_EQ(needed(total(0)), 0);
  EXPECT_EQ(needed(total(4)), 4);
  EXPECT_EQ(needed(total(4) - 1), 5);
  EXPECT_EQ(needed(1), 8);
  EXPECT_LT(total(-1), total(4));
  EXPECT_LT(total(4), total(0));
}

}  // namespace

int Child(bool owner, int64_t recompute, int pipe) {
  const Measured measured = Measure(owner, recompute);
  return write(pipe, &measured, sizeof(measured)) == sizeof(measured) ? 0 : 1;
}

}  // namespace motet::learn

int main(int argc, char** argv) {
  if (argc == 5 && std::string(argv[1]) == "--measure-child") {
    return motet::learn::Child(std::stoi(argv[2]) != 0, std::stoll(argv[3]),
                               std::stoi(argv[4]));
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
