// SPDX-License-Identifier: Apache-2.0
// Ours in the row of adapter training: whole steps (forward, backward,
// clipping, AdamW) on a BERT encoder with LoRA of rank 8 on query and value,
// 256 queries a batch against the vectors of 256 documents, which are there.
// Ids and lengths are made by TokenAt and LengthOf, as the peer makes them.
//
//   adapter_bench --model DIR --arithmetic NAME      a player (player.h)
//
// Task, in queries a second:
//   train               a step, dropout of the adapter's input included
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "compose/learn/adapter_run.h"
#include "compose/learn/hash.h"
#include "compose/package/encoder_folder.h"
#include "proto/error.h"
#include "tests/bench/player.h"

namespace motet::bench {
namespace {

constexpr int64_t kQueries = 256;
constexpr double kLearningRate = 1e-4;

// Questions of people: 16 tokens in the mean, 36 at most.
int64_t LengthOf(int64_t query) {
  constexpr int64_t kLengths[] = {6,  8,  10, 11, 11, 12, 13, 14,
                                  15, 16, 17, 19, 21, 24, 28, 36};
  return kLengths[query * 7 % 16];
}

int32_t TokenAt(int64_t sequence, int64_t position, int64_t vocabulary) {
  return static_cast<int32_t>((sequence * 7919 + position * 1543 + 17) %
                              vocabulary);
}

class Training {
 public:
  static absl::StatusOr<std::unique_ptr<Training>> Load(
      const std::string& folder, math::Product product) {
    MOTET_ASSIGN_OR_RETURN(auto loaded, package::LoadEncoder(folder));
    MOTET_ASSIGN_OR_RETURN(
        auto encoder,
        model::Encoder::Create(loaded->config, loaded->weights,
                               loaded->normalise));
    return std::unique_ptr<Training>(
        new Training(std::move(loaded), std::move(encoder), product));
  }
  absl::StatusOr<double> Step() {
    learn::StepResult result;
    const double seconds = Seconds([&] {
      result = stepper_->Gradients(batch_, ++steps_);
      stepper_->Apply(result, kLearningRate);
    });
    return kQueries / seconds;
  }

 private:
  Training(std::unique_ptr<package::LoadedEncoder> loaded,
           model::Encoder encoder, math::Product product)
      : loaded_(std::move(loaded)), encoder_(std::move(encoder)) {
    const model::EncoderConfig& config = loaded_->config;
    for (int64_t q = 0; q < kQueries; ++q) {
      ids_.emplace_back();
      for (int64_t t = 0; t < LengthOf(q); ++t) {
        ids_.back().push_back(TokenAt(q, t, config.vocabulary));
      }
    }
    for (int64_t i = 0; i < kQueries * config.width; ++i) {
      documents_.push_back(
          static_cast<float>(learn::Normal(1, static_cast<uint64_t>(i))) /
          20);
    }
    for (int64_t q = 0; q < kQueries; ++q) {
      batch_.queries.push_back(ids_[static_cast<size_t>(q)]);
      batch_.columns.push_back(q);
      batch_.targets.push_back(static_cast<int32_t>(q));
    }
    batch_.masked.assign(kQueries * kQueries, 0);
    model::LoraConfig lora;
    lora.dropout = 0.1;
    lora_ = learn::InitialLora(config, lora, 1);
    math::Tensor documents;
    documents.data = documents_.data();
    documents.shape = {kQueries, config.width};
    learn::AdapterStepOptions options;
    options.product = product;
    stepper_ = std::make_unique<learn::AdapterStepper>(
        encoder_, lora_.lora, documents, options);
  }

  std::unique_ptr<package::LoadedEncoder> loaded_;
  model::Encoder encoder_;
  std::vector<std::vector<int32_t>> ids_;
  std::vector<float> documents_;
  learn::AdapterBatch batch_;
  learn::OwnedLora lora_;
  std::unique_ptr<learn::AdapterStepper> stepper_;
  uint64_t steps_ = 0;
};

}  // namespace
}  // namespace motet::bench

int main(int argc, char** argv) {
  using namespace motet::bench;
  const std::string folder = Option(argc, argv, "model", "");
  const Arithmetic* arithmetic =
      FindArithmetic(Option(argc, argv, "arithmetic", "f32"));
  if (arithmetic == nullptr) return 2;
  std::unique_ptr<Training> training;
  Player player;
  player.Add("train", [&]() -> absl::StatusOr<double> {
    if (training == nullptr) {
      // As served: the order of sums does not depend on threads.
      MOTET_ASSIGN_OR_RETURN(training,
                             Training::Load(folder, arithmetic->serving));
    }
    return training->Step();
  });
  return player.Run();
}
