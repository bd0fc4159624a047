// SPDX-License-Identifier: Apache-2.0
// Ours in the serving rows: the mixture of shared/tools/bench_moe.py, loaded
// as `motet serve` loads it, run with KV caches. Token ids are made by
// TokenAt, as the peers make theirs, so that both route the same tokens.
//
//   serve_bench --model DIR --arithmetic NAME        a player (player.h)
//
// Tasks, in tokens a second:
//   prefill             512 tokens of one sequence; logits of the last
//   decode_1            32 steps of one sequence behind 112 tokens
//   decode_16           the same, 16 sequences together
//   decode_16_excluded  each sequence may use all experts but one of its own
//   decode_16_anchored  anchored router with its gate, random parameters
// and in MiB, once all 16 sequences have decoded:
//   resident            the most memory that this process has held
//   allowed             mapped weights + KV cache + 150 MiB
#include <sys/resource.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "compose/learn/trainer.h"
#include "compose/package/huggingface.h"
#include "proto/error.h"
#include "tests/bench/player.h"

namespace motet::bench {
namespace {

using math::Tensor;

constexpr int64_t kPrefill = 512, kContext = 112, kSteps = 32;

int32_t TokenAt(int64_t sequence, int64_t position, int64_t vocabulary) {
  return static_cast<int32_t>((sequence * 7919 + position * 1543 + 17) %
                              vocabulary);
}

// Anchored layers that let every token's gate pass: the whole of the method's
// arithmetic is done, and every token runs the base and one expert, as many
// as plain top-2 does.
class Anchored {
 public:
  explicit Anchored(const model::ModelConfig& c) : random_(1) {
    for (int64_t l = 0; l < c.layers; ++l) {
      math::AnchoredLayer layer;
      layer.select = Normal({c.experts, c.width}, 1.0f);
      layer.offset = Normal({c.experts}, 0.1f);
      // The base is never the best: its offset is out of reach.
      layer.offset.f32()[0] = -1e30f;
      layer.pair_mean = Normal({c.experts, c.width}, 1.0f);
      layer.threshold = Normal({c.experts}, 0.0f);
      for (int64_t e = 0; e < c.experts; ++e) {
        layer.threshold.f32()[e] = 1e30f;
      }
      layer.precision = Normal({c.width, c.width}, 0.01f);
      layer.rows = Normal({c.experts, c.width}, 0.02f);
      router_.anchored.push_back(layer);
    }
    router_.kind = model::Router::Kind::kAnchored;
  }
  const model::Router& router() const { return router_; }

 private:
  Tensor Normal(const math::Shape& shape, float scale) {
    storage_.push_back(
        std::make_unique<float[]>(static_cast<size_t>(shape.size())));
    Tensor t;
    t.data = storage_.back().get();
    t.shape = shape;
    std::normal_distribution<float> normal(0.0f, 1.0f);
    for (int64_t i = 0; i < shape.size(); ++i) {
      t.f32()[i] = scale * normal(random_);
    }
    return t;
  }
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<float[]>> storage_;
  model::Router router_;
};

class Serving {
 public:
  Serving(std::string folder, math::Product product)
      : folder_(std::move(folder)), product_(product) {}

  absl::StatusOr<double> Prefill() {
    MOTET_RETURN_IF_ERROR(Load());
    const double seconds = Run(*top_k_, 1, kPrefill, 0, {});
    return kPrefill / seconds;
  }
  absl::StatusOr<double> Decode(int64_t sequences, bool anchored,
                                bool excluded) {
    MOTET_RETURN_IF_ERROR(anchored ? LoadAnchored() : Load());
    std::vector<math::ExpertMask> allowed;
    const int64_t experts = top_k_->config().experts;
    for (int64_t s = 0; excluded && s < sequences; ++s) {
      allowed.push_back(~(math::ExpertMask{1} << (1 + s % (experts - 1))));
    }
    const double seconds = Run(anchored ? *anchored_ : *top_k_, sequences,
                               kContext, kSteps, allowed);
    return static_cast<double>(sequences * kSteps) / seconds;
  }
  absl::StatusOr<double> Resident() {
    MOTET_RETURN_IF_ERROR(Decode(16, false, false).status());
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_maxrss) / 1024;
  }
  absl::StatusOr<double> Allowed() {
    MOTET_RETURN_IF_ERROR(Load());
    double bytes = 0;
    for (const auto& file : std::filesystem::directory_iterator(folder_)) {
      if (file.path().extension() == ".safetensors") {
        bytes += static_cast<double>(file.file_size());
      }
    }
    bytes += 16.0 * static_cast<double>(model::SequenceCache::Bytes(
                        model_->config, kContext + kSteps));
    return bytes / (1 << 20) + 150;
  }

 private:
  absl::Status Load() {
    if (top_k_ != nullptr) return absl::OkStatus();
    MOTET_ASSIGN_OR_RETURN(model_, package::LoadModel(folder_));
    MOTET_ASSIGN_OR_RETURN(model::Decoder decoder,
                           learn::BaseDecoder(*model_));
    top_k_ = std::make_unique<model::Decoder>(std::move(decoder));
    return absl::OkStatus();
  }
  absl::Status LoadAnchored() {
    MOTET_RETURN_IF_ERROR(Load());
    if (anchored_ != nullptr) return absl::OkStatus();
    parameters_ = std::make_unique<Anchored>(model_->config);
    MOTET_ASSIGN_OR_RETURN(
        model::Decoder anchored,
        model::Decoder::Create(model_->config, model_->weights,
                               parameters_->router()));
    anchored_ = std::make_unique<model::Decoder>(std::move(anchored));
    return absl::OkStatus();
  }

  // Seconds of `steps` tokens a sequence behind `context` ones; of the
  // context itself when there are no steps.
  double Run(const model::Decoder& decoder, int64_t sequences,
             int64_t context, int64_t steps,
             const std::vector<math::ExpertMask>& allowed) {
    const model::ModelConfig& c = decoder.config();
    std::vector<std::unique_ptr<model::SequenceCache>> caches;
    for (int64_t s = 0; s < sequences; ++s) {
      caches.push_back(std::make_unique<model::SequenceCache>(
          c, context + steps, c.experts));
    }
    // Sequences [from, from + count) run their next tokens in one batch.
    const auto forward = [&](int64_t from, int64_t count, int64_t position,
                             int64_t tokens) {
      std::vector<std::vector<int32_t>> ids(static_cast<size_t>(count));
      std::vector<model::SequenceInput> inputs;
      for (int64_t s = from; s < from + count; ++s) {
        std::vector<int32_t>& own = ids[static_cast<size_t>(s - from)];
        for (int64_t t = 0; t < tokens; ++t) {
          own.push_back(TokenAt(s, position + t, c.vocabulary));
        }
        model::SequenceInput input;
        input.ids = own;
        input.cache = caches[static_cast<size_t>(s)].get();
        if (!allowed.empty()) input.allowed = allowed[static_cast<size_t>(s)];
        inputs.push_back(input);
      }
      arena_.Reset();
      math::Exec exec(math::Cpu(), arena_, product_);
      const model::Batch batch(inputs);
      const Tensor hidden = decoder.Forward(exec, batch);
      // One row a sequence gets logits: all of a decoding step's rows.
      decoder.Logits(exec, hidden.RowSlice(tokens == 1 ? 0 : tokens - 1,
                                           tokens == 1 ? count : 1));
    };
    const double first = Seconds([&] {
      for (int64_t s = 0; s < sequences; ++s) forward(s, 1, 0, context);
    });
    if (steps == 0) return first;
    return Seconds([&] {
      for (int64_t t = 0; t < steps; ++t) forward(0, sequences, context + t, 1);
    });
  }

  std::string folder_;
  math::Product product_;
  math::Arena arena_;
  std::unique_ptr<package::LoadedModel> model_;
  std::unique_ptr<Anchored> parameters_;
  std::unique_ptr<model::Decoder> top_k_, anchored_;
};

int Main(int argc, char** argv) {
  const Arithmetic* arithmetic =
      FindArithmetic(Option(argc, argv, "arithmetic", "f32"));
  if (arithmetic == nullptr) return 2;
  Serving serving(Option(argc, argv, "model", ""), arithmetic->serving);
  Player player;
  player.Add("prefill", [&] { return serving.Prefill(); });
  player.Add("decode_1", [&] { return serving.Decode(1, false, false); });
  player.Add("decode_16", [&] { return serving.Decode(16, false, false); });
  player.Add("decode_16_excluded",
             [&] { return serving.Decode(16, false, true); });
  player.Add("decode_16_anchored",
             [&] { return serving.Decode(16, true, false); });
  player.Add("resident", [&] { return serving.Resident(); });
  player.Add("allowed", [&] { return serving.Allowed(); });
  return player.Run();
}

}  // namespace
}  // namespace motet::bench

int main(int argc, char** argv) { return motet::bench::Main(argc, argv); }
