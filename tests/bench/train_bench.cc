// SPDX-License-Identifier: Apache-2.0
// Ours in the training rows: whole steps (forward, backward, clipping,
// AdamW), and the BLAS library's products alone, which they are held against.
//
//   train_bench --smollm2 DIR --arithmetic NAME      a player (player.h)
//
// Tasks, all in tokens a second:
//   dense      Llama L8 C512 H8 F1376 V8192 from nothing, B8 T256
//   products   nothing but that step's matrix products, by oneDNN, in the
//              arithmetic that ours uses
//   owner      an owner's run beside SmolLM2-135M: own FFNs, B2 T512
//   tune       the routers of four dense models' mixture, top-2, B8 T256: the
//              dense task's tokens that its matrix products are worth
//   tune_btx   the same as BTX finetunes them with Sample Top-1 (METHODS 2):
//              one expert a token, drawn; load balance over its gates
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "compose/learn/hash.h"
#include "compose/learn/router_run.h"
#include "compose/learn/step.h"
#include "compose/learn/trainer.h"
#include "compose/model/mixture.h"
#include "proto/error.h"
#include "tests/bench/player.h"
#include "tests/bench/products.h"

namespace motet::bench {
namespace {

constexpr double kLearningRate = 1e-4;

model::ModelConfig DenseConfig() {
  model::ModelConfig config;
  config.block = model::Block::kPreNorm;
  config.qk_norm = model::QkNorm::kNone;
  config.vocabulary = 8192;
  config.width = 512;
  config.layers = 8;
  config.heads = config.kv_heads = 8;
  config.head_dim = 64;
  config.ffn_width = 1376;
  config.max_positions = 256;
  return config;
}

// Random token sequences: what they say does not matter to the speed.
struct Text {
  Text(int64_t batch, int64_t window, int64_t vocabulary) {
    for (int64_t i = 0; i < batch * window; ++i) {
      ids.push_back(static_cast<int32_t>(
          learn::Mix(static_cast<uint64_t>(i)) %
          static_cast<uint64_t>(vocabulary)));
    }
    for (int64_t b = 0; b < batch; ++b) {
      sequences.push_back(std::span<const int32_t>(ids).subspan(
          static_cast<size_t>(b * window), static_cast<size_t>(window)));
    }
  }
  double tokens() const { return static_cast<double>(ids.size()); }
  std::vector<int32_t> ids;
  std::vector<std::span<const int32_t>> sequences;
};

// Tokens a second of one step.
absl::StatusOr<double> StepRate(learn::Stepper& stepper, const Text& text) {
  learn::StepResult result;
  const double seconds = Seconds(
      [&] { result = stepper.Step(text.sequences, kLearningRate); });
  if (!result.applied) {
    return proto::Error(absl::StatusCode::kInternal, "bench",
                        "a step whose loss is not finite", "a finite one");
  }
  return text.tokens() / seconds;
}

class Dense {
 public:
  explicit Dense(math::Product product) {
    options_.product = product;
    options_.weight_decay = 0.1;
  }
  absl::StatusOr<double> Step() {
    if (stepper_ == nullptr) {
      model_ = learn::InitialModel(DenseConfig(), 1);
      MOTET_ASSIGN_OR_RETURN(
          model::Decoder decoder,
          model::Decoder::Create(model_.config, model_.weights, {}));
      decoder_ = std::make_unique<model::Decoder>(std::move(decoder));
      stepper_ = std::make_unique<learn::Stepper>(
          *decoder_, learn::DenseParameters(model_), options_);
    }
    return StepRate(*stepper_, text_);
  }

 private:
  Text text_{8, 256, DenseConfig().vocabulary};
  learn::StepOptions options_;
  learn::OwnedModel model_;
  std::unique_ptr<model::Decoder> decoder_;
  std::unique_ptr<learn::Stepper> stepper_;
};

class Products {
 public:
  explicit Products(bool bf16) : bf16_(bf16) {}
  absl::StatusOr<double> Run() {
    const model::ModelConfig c = DenseConfig();
    if (list_ == nullptr) {
      list_ = std::make_unique<ProductList>(bf16_);
      list_->AddLinear(kTokens, c.width, c.width, 4 * c.layers, true, true);
      list_->AddLinear(kTokens, c.width, c.ffn_width, 2 * c.layers, true,
                       true);
      list_->AddLinear(kTokens, c.ffn_width, c.width, c.layers, true, true);
      list_->AddLinear(kTokens, c.width, c.vocabulary, 1, true, true);
    }
    return kTokens / Seconds([&] { list_->Run(); });
  }

 private:
  static constexpr int64_t kTokens = 8 * 256;
  bool bf16_;
  std::unique_ptr<ProductList> list_;
};

class Owner {
 public:
  Owner(std::string folder, math::Product product)
      : folder_(std::move(folder)) {
    options_.product = product;
    options_.router_z_weight = 1e-3;
    options_.lm_z_weight = 1e-5;
  }
  absl::StatusOr<double> Step() {
    if (stepper_ == nullptr) MOTET_RETURN_IF_ERROR(Load());
    return StepRate(*stepper_, *text_);
  }

 private:
  absl::Status Load() {
    MOTET_ASSIGN_OR_RETURN(base_, package::LoadModel(folder_));
    expert_ = learn::NewOwnerExpert(*base_);
    for (size_t l = 0; l < expert_.layers.size(); ++l) {
      const model::FfnWeights& from = base_->weights.layers[l].experts[0];
      learn::Widen(from.gate, expert_.layers[l].ffn.gate);
      learn::Widen(from.up, expert_.layers[l].ffn.up);
      learn::Widen(from.down, expert_.layers[l].ffn.down);
    }
    MOTET_ASSIGN_OR_RETURN(model::Decoder decoder,
                           learn::PairDecoder(*base_, expert_));
    decoder_ = std::make_unique<model::Decoder>(std::move(decoder));
    text_ = std::make_unique<Text>(2, 512, base_->config.vocabulary);
    stepper_ = std::make_unique<learn::Stepper>(
        *decoder_, learn::OwnerParameters(expert_), options_);
    return absl::OkStatus();
  }
  std::string folder_;
  learn::StepOptions options_;
  std::unique_ptr<Text> text_;
  std::unique_ptr<package::LoadedModel> base_;
  learn::OwnerExpert expert_;
  std::unique_ptr<model::Decoder> decoder_;
  std::unique_ptr<learn::Stepper> stepper_;
};

// Multiplications and additions of a step's matrix products, a token.
//   dense   forward, to inputs and to weights: 6 a weight
//   tune    forward and to inputs: 4 a weight that a token uses, 2 where no
//           row lies below (the first layer's attention and FFN need no
//           gradient); 6 a row of the routers, 4 in the first layer
double DenseFlops(const model::ModelConfig& c) {
  const double attention = 4.0 * c.width * c.width;
  const double ffn = 3.0 * c.width * c.ffn_width;
  const double head = static_cast<double>(c.width) * c.vocabulary;
  return 6 * (c.layers * (attention + ffn) + head);
}
double TuneFlops(const model::ModelConfig& c, double experts, double k) {
  const double attention = 4.0 * c.width * c.width;
  const double ffn = 3.0 * c.width * c.ffn_width;
  const double head = static_cast<double>(c.width) * c.vocabulary;
  const double router = experts * c.width;
  const double layer = attention + k * ffn;
  return 4 * (c.layers * layer + head) - 2 * layer +
         6 * c.layers * router - 2 * router;
}

class Tune {
 public:
  Tune(math::Product product, bool btx) : btx_(btx) {
    options_.product = product;
    options_.router_z_weight = btx ? 0 : 1e-3;
    options_.load_balance_weight = 0.01;
  }
  absl::StatusOr<double> Step() {
    if (stepper_ == nullptr) MOTET_RETURN_IF_ERROR(Make());
    MOTET_ASSIGN_OR_RETURN(const double rate, StepRate(*stepper_, text_));
    return rate * TuneFlops(DenseConfig(), kExperts, choices()) /
           DenseFlops(DenseConfig());
  }

 private:
  static constexpr int64_t kExperts = 4;
  int64_t choices() const { return btx_ ? 1 : 2; }
  absl::Status Make() {
    model::ModelConfig config = DenseConfig();
    config.experts = kExperts;
    config.experts_per_token = choices();
    mixture_ = learn::InitialModel(config, 1);
    model::Router router;
    router.k = choices();
    router.renormalise = true;
    learn::RouterOptions how;
    auto draw = std::make_shared<model::BtxRouter>();
    draw->kind = model::BtxRouter::Kind::kSample;
    draw->seed = 1;
    if (btx_) how.choice = learn::RouterOptions::Choice::kSample;
    MOTET_ASSIGN_OR_RETURN(
        const model::Decoder served,
        model::Decoder::Create(config, mixture_.weights, router));
    rows_ = learn::CopyRows(served);
    MOTET_ASSIGN_OR_RETURN(model::Decoder decoder,
                           learn::TuningDecoder(served, rows_, how, draw));
    decoder_ = std::make_unique<model::Decoder>(std::move(decoder));
    stepper_ = std::make_unique<learn::Stepper>(
        *decoder_, learn::RouterParameters(rows_), options_);
    return absl::OkStatus();
  }
  const bool btx_;
  Text text_{8, 256, DenseConfig().vocabulary};
  learn::StepOptions options_;
  learn::OwnedModel mixture_;
  learn::RouterRows rows_;
  std::unique_ptr<model::Decoder> decoder_;
  std::unique_ptr<learn::Stepper> stepper_;
};

int Main(int argc, char** argv) {
  const Arithmetic* arithmetic =
      FindArithmetic(Option(argc, argv, "arithmetic", "f32"));
  if (arithmetic == nullptr) return 2;
  Dense dense(arithmetic->training);
  Products products(arithmetic->bf16);
  Owner owner(Option(argc, argv, "smollm2", ""), arithmetic->training);
  Tune tune(arithmetic->training, /*btx=*/false);
  Tune tune_btx(arithmetic->training, /*btx=*/true);
  Player player;
  player.Add("dense", [&] { return dense.Step(); });
  player.Add("products", [&] { return products.Run(); });
  player.Add("owner", [&] { return owner.Step(); });
  player.Add("tune", [&] { return tune.Step(); });
  player.Add("tune_btx", [&] { return tune_btx.Step(); });
  return player.Run();
}

}  // namespace
}  // namespace motet::bench

int main(int argc, char** argv) { return motet::bench::Main(argc, argv); }
