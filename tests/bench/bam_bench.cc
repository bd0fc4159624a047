// SPDX-License-Identifier: Apache-2.0
// The row bam_decode: a BAM composition, whose tokens use every attention
// expert and one FFN, against its members one after another. Members are
// copies of one model in memory of their own, so that both sides read as much
// as they would of different models.
//
//   bam_bench --model DIR --arithmetic NAME          a player (player.h)
//
// Tasks, in tokens a second, 32 steps behind 112 tokens of each sequence:
//   bam_1, bam_16       the composition: own KV, soft attention, top-1 FFN
//   shared_1, shared_16 the same with shared KV
//   dense_1, dense_16   every member answers every token
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "compose/package/huggingface.h"
#include "compose/model/decoder.h"
#include "proto/error.h"
#include "tests/bench/player.h"

namespace motet::bench {
namespace {

using math::Tensor;

constexpr int64_t kMembers = 4, kContext = 112, kSteps = 32;

class Voices {
 public:
  Voices(std::string folder, math::Product product)
      : folder_(std::move(folder)), product_(product) {}

  absl::StatusOr<double> Dense(int64_t sequences) {
    MOTET_RETURN_IF_ERROR(Load());
    double seconds = 0;
    for (const auto& decoder : dense_) seconds += Decode(*decoder, sequences);
    return static_cast<double>(sequences * kSteps) / seconds;
  }
  absl::StatusOr<double> Bam(model::AttentionExperts kind,
                             int64_t sequences) {
    MOTET_RETURN_IF_ERROR(Load());
    std::unique_ptr<model::Decoder>& decoder =
        kind == model::AttentionExperts::kOwnKv ? own_ : shared_;
    if (decoder == nullptr) {
      MOTET_ASSIGN_OR_RETURN(decoder, Compose(kind));
    }
    return static_cast<double>(sequences * kSteps) /
           Decode(*decoder, sequences);
  }

 private:
  absl::Status Load() {
    if (!dense_.empty()) return absl::OkStatus();
    MOTET_ASSIGN_OR_RETURN(model_, package::LoadModel(folder_));
    for (int64_t m = 0; m < kMembers; ++m) {
      model::ModelWeights copy = model_->weights;
      model::VisitWeights(
          model_->config, copy,
          [&](const std::string&, const math::Shape&, Tensor& t) {
            const Tensor from = t;
            t.data = numbers_.New(t.shape, t.dtype).data;
            std::memcpy(t.data, from.data, from.bytes());
          });
      if (model_->config.tied_head) copy.head = copy.embed;
      members_.push_back(copy);
      MOTET_ASSIGN_OR_RETURN(
          model::Decoder decoder,
          model::Decoder::Create(model_->config, std::move(copy), {}));
      dense_.push_back(std::make_unique<model::Decoder>(std::move(decoder)));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<model::Decoder>> Compose(
      model::AttentionExperts kind) {
    model::ModelConfig config = model_->config;
    config.experts = kMembers;
    config.experts_per_token = 1;
    config.attention_experts = kind;
    model::ModelWeights weights = members_[0];
    const bool shared = kind == model::AttentionExperts::kSharedKv;
    for (int64_t l = 0; l < config.layers; ++l) {
      model::LayerWeights& layer = weights.layers[l];
      layer.experts.clear();
      for (const model::ModelWeights& member : members_) {
        const model::LayerWeights& from = member.layers[l];
        layer.experts.push_back(from.experts[0]);
        layer.attention_experts.push_back(from);
      }
      if (!shared) static_cast<model::AttentionWeights&>(layer) = {};
      layer.router = Rows(config);
      layer.attention_router = Rows(config);
    }
    model::Router router;
    router.k = 1;
    MOTET_ASSIGN_OR_RETURN(
        model::Decoder decoder,
        model::Decoder::Create(config, std::move(weights), router));
    return std::make_unique<model::Decoder>(std::move(decoder));
  }
  Tensor Rows(const model::ModelConfig& config) {
    std::normal_distribution<float> normal;
    Tensor t = numbers_.New({kMembers, config.width});
    for (int64_t i = 0; i < t.size(); ++i) t.f32()[i] = normal(random_);
    return t;
  }

  // Seconds of kSteps steps behind a context.
  double Decode(const model::Decoder& decoder, int64_t sequences) {
    const model::ModelConfig& c = decoder.config();
    std::vector<std::unique_ptr<model::SequenceCache>> caches;
    for (int64_t s = 0; s < sequences; ++s) {
      caches.push_back(std::make_unique<model::SequenceCache>(
          c, kContext + kSteps, std::max<int64_t>(1, c.experts)));
    }
    // The next tokens of sequences [from, from + count) in one batch.
    const auto forward = [&](int64_t from, int64_t count, int64_t position,
                             int64_t tokens) {
      std::vector<std::vector<int32_t>> ids(static_cast<size_t>(count));
      std::vector<model::SequenceInput> inputs;
      for (int64_t s = from; s < from + count; ++s) {
        std::vector<int32_t>& own = ids[static_cast<size_t>(s - from)];
        for (int64_t t = position; t < position + tokens; ++t) {
          own.push_back(static_cast<int32_t>((s * 7919 + t * 1543 + 17) %
                                             c.vocabulary));
        }
        inputs.push_back({own, caches[static_cast<size_t>(s)].get()});
      }
      arena_.Reset();
      math::Exec exec(math::Cpu(), arena_, product_);
      const model::Batch batch(inputs);
      const Tensor hidden = decoder.Forward(exec, batch);
      if (tokens == 1) decoder.Logits(exec, hidden);
    };
    for (int64_t s = 0; s < sequences; ++s) forward(s, 1, 0, kContext);
    return Seconds([&] {
      for (int64_t t = 0; t < kSteps; ++t) {
        forward(0, sequences, kContext + t, 1);
      }
    });
  }

  std::string folder_;
  math::Product product_;
  math::Arena arena_, numbers_;
  std::mt19937_64 random_{1};
  std::unique_ptr<package::LoadedModel> model_;
  std::vector<model::ModelWeights> members_;
  std::vector<std::unique_ptr<model::Decoder>> dense_;
  std::unique_ptr<model::Decoder> own_, shared_;
};

int Main(int argc, char** argv) {
  const Arithmetic* arithmetic =
      FindArithmetic(Option(argc, argv, "arithmetic", "f32"));
  if (arithmetic == nullptr) return 2;
  Voices voices(Option(argc, argv, "model", ""), arithmetic->serving);
  Player player;
  for (const int64_t sequences : {1, 16}) {
    const std::string count = std::to_string(sequences);
    player.Add("dense_" + count,
               [&voices, sequences] { return voices.Dense(sequences); });
    player.Add("bam_" + count, [&voices, sequences] {
      return voices.Bam(model::AttentionExperts::kOwnKv, sequences);
    });
    player.Add("shared_" + count, [&voices, sequences] {
      return voices.Bam(model::AttentionExperts::kSharedKv, sequences);
    });
  }
  return player.Run();
}

}  // namespace
}  // namespace motet::bench

int main(int argc, char** argv) { return motet::bench::Main(argc, argv); }
