// SPDX-License-Identifier: Apache-2.0
// The gradients of whole decoders, as the tape computes them, against
// differences of the loss: along the gradient itself (its length) and along
// a random direction (its direction), for every trained tensor.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "compose/learn/hash.h"
#include "compose/learn/step.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

using math::Tensor;
using model::Block;

const std::vector<int32_t> kFirst = {3, 1, 4, 1, 5, 9, 2, 6, 5};
const std::vector<int32_t> kSecond = {26, 2, 7, 1, 8, 2, 8};
const std::vector<std::span<const int32_t>> kSequences = {kFirst, kSecond};

StepOptions Options() {
  StepOptions options;
  options.router_z_weight = 0.05;
  options.lm_z_weight = 0.02;
  options.product = math::Product::kExact;
  return options;
}

// The loss's slope along `direction` of value, by central differences.
double Slope(const model::Decoder& decoder, Tensor value,
             const std::vector<double>& direction, double step) {
  const std::vector<float> saved(value.f32(), value.f32() + value.size());
  const auto loss_at = [&](double s) {
    for (size_t i = 0; i < saved.size(); ++i) {
      value.f32()[i] = static_cast<float>(saved[i] + s * direction[i]);
    }
    return Evaluate(decoder, kSequences, Options(), math::Reference()).loss;
  };
  const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
  std::copy(saved.begin(), saved.end(), value.f32());
  return slope;
}

std::vector<double> Unit(std::vector<double> v) {
  double square = 0;
  for (double x : v) square += x * x;
  for (double& x : v) x /= std::sqrt(square);
  return v;
}

double Dot(const Tensor& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    sum += static_cast<double>(a.f32()[i]) * b[i];
  }
  return sum;
}

void CheckGradients(const model::Decoder& decoder,
                    std::vector<Parameter> parameters) {
  Stepper stepper(decoder, std::move(parameters), Options(),
                  math::Reference());
  const StepResult result = stepper.Gradients(kSequences);
  EXPECT_NEAR(result.loss,
              Evaluate(decoder, kSequences, Options(), math::Reference()).loss,
              1e-12);
  uint64_t seed = 0;
  for (const Optimizer::Item& item : stepper.optimizer().items()) {
    SCOPED_TRACE(item.parameter.name);
    const Tensor& g = item.gradient;
    const std::vector<double> gradient(g.f32(), g.f32() + g.size());
    std::vector<double> random;
    for (int64_t i = 0; i < g.size(); ++i) {
      random.push_back(Normal(++seed, static_cast<uint64_t>(i)));
    }
    const double length = Dot(g, Unit(gradient));
    ASSERT_GT(length, 1e-6);
    for (const auto& direction : {Unit(gradient), Unit(random)}) {
      const double want =
          Slope(decoder, item.parameter.value, direction, 1e-3);
      EXPECT_NEAR(Dot(g, direction), want, 2e-3 * length + 5e-5);
    }
  }
}

class GradientTest : public testing::TestWithParam<Block> {};

TEST_P(GradientTest, DenseDecoder) {
  OwnedModel model = toy::Model(toy::Config(GetParam()), 5);
  auto decoder = model::Decoder::Create(model.config, model.weights, {});
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  CheckGradients(*decoder, DenseParameters(model));
}

TEST_P(GradientTest, TiedHeadAddsBothUses) {
  model::ModelConfig config = toy::Config(GetParam());
  config.tied_head = true;
  OwnedModel model = toy::Model(config, 6);
  auto decoder = model::Decoder::Create(model.config, model.weights, {});
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  CheckGradients(*decoder, DenseParameters(model));
}

// Every token uses every expert, so that no choice has an edge nearby.
TEST_P(GradientTest, AttentionExperts) {
  for (auto attention : {model::AttentionExperts::kOwnKv,
                         model::AttentionExperts::kSharedKv}) {
    model::ModelConfig config = toy::Config(GetParam());
    config.experts = config.experts_per_token = 3;
    config.attention_experts = attention;
    OwnedModel model = toy::Model(config, 9);
    auto decoder = model::Decoder::Create(model.config, model.weights,
                                          model::RouterOf(config));
    ASSERT_TRUE(decoder.ok()) << decoder.status();
    CheckGradients(*decoder, DenseParameters(model));
  }
}

// Of two experts the other one is always the best beside the base: no choice
// has an edge nearby.
TEST_P(GradientTest, SharedBase) {
  for (const bool renormalise : {true, false}) {
    model::ModelConfig config = toy::Config(GetParam());
    config.experts = config.experts_per_token = 2;
    OwnedModel model = toy::Model(config, 10);
    model::Router router;
    router.k = 1;
    router.shared = true;
    router.renormalise = renormalise;
    auto decoder =
        model::Decoder::Create(model.config, model.weights, router);
    ASSERT_TRUE(decoder.ok()) << decoder.status();
    CheckGradients(*decoder, DenseParameters(model));
  }
}

OwnerExpert RandomExpert(const package::LoadedModel& base) {
  OwnerExpert expert = NewOwnerExpert(base);
  uint64_t n = 0;
  for (OwnerExpert::Layer& layer : expert.layers) {
    for (Tensor t : {layer.ffn.gate, layer.ffn.up, layer.ffn.down,
                     layer.router}) {
      for (int64_t i = 0; i < t.size(); ++i) {
        t.f32()[i] = static_cast<float>(0.3 * Normal(77, n++));
      }
    }
    layer.bias.f32()[0] = -0.3f;  // away from the kink of min(b, 0)
  }
  return expert;
}

TEST_P(GradientTest, PairOfBaseAndExpert) {
  const OwnedModel model = toy::Model(toy::Config(GetParam()), 7);
  const auto base = toy::Loaded(model);
  OwnerExpert expert = RandomExpert(*base);
  auto decoder = PairDecoder(*base, expert);
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  CheckGradients(*decoder, OwnerParameters(expert));
}

// Nothing of the base is watched, so the tape must not reach below the first
// layer's expert: fewer records than a pass with everything trained.
TEST_P(GradientTest, NoGradientWorkForWhatIsFrozen) {
  const OwnedModel model = toy::Model(toy::Config(GetParam()), 8);
  const auto base = toy::Loaded(model);
  OwnerExpert expert = RandomExpert(*base);
  auto decoder = PairDecoder(*base, expert);
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  math::Arena arena;
  Tape tape(arena);
  for (const Parameter& p : OwnerParameters(expert)) tape.Watch(p.watched);
  math::Exec exec(math::Reference(), arena, math::Product::kExact, &tape);
  model::SequenceInput input;
  input.ids = kFirst;
  const model::Batch batch(std::span(&input, 1));
  model::Trace trace;
  decoder->Forward(exec, batch, &trace);
  EXPECT_FALSE(tape.Needs(trace.hidden[0]));
  EXPECT_FALSE(tape.Needs(trace.router_input[0]));
  EXPECT_TRUE(tape.Needs(trace.hidden[1]));
  EXPECT_FALSE(tape.Needs(base->weights.layers[1].q));
}

// Identical experts whose weights sum to 1 are the dense model; in a
// post-norm block any weights are (the norm takes the factor away).
TEST_P(GradientTest, IdenticalExpertsAreTheDenseModel) {
  const OwnedModel model = toy::Model(toy::Config(GetParam()), 9);
  const auto base = toy::Loaded(model);
  OwnerExpert expert = RandomExpert(*base);
  for (size_t l = 0; l < expert.layers.size(); ++l) {
    const model::FfnWeights& from = base->weights.layers[l].experts[0];
    Widen(from.gate, expert.layers[l].ffn.gate);
    Widen(from.up, expert.layers[l].ffn.up);
    Widen(from.down, expert.layers[l].ffn.down);
  }
  auto pair = PairDecoder(*base, expert);
  auto dense = BaseDecoder(*base);
  ASSERT_TRUE(pair.ok() && dense.ok());
  const StepOptions options = Options();
  EXPECT_NEAR(Evaluate(*pair, kSequences, options).cross_entropy,
              Evaluate(*dense, kSequences, options).cross_entropy, 1e-4);
}

std::string NameOf(const testing::TestParamInfo<Block>& info) {
  const char* names[] = {"PreNorm", "PostNorm", "Parallel"};
  return names[static_cast<int>(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Blocks, GradientTest,
                         testing::Values(Block::kPreNorm, Block::kPostNorm,
                                         Block::kParallel),
                         NameOf);

}  // namespace
}  // namespace motet::learn
