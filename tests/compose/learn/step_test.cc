// SPDX-License-Identifier: Apache-2.0
// One step in less memory is the same step: in pieces (but for rounding), by
// layers that run again (to the bit), without a whole matrix of logits. And
// what is frozen costs nothing.
#include "compose/learn/step.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "compose/learn/freeze.h"
#include "compose/learn/hash.h"
#include "tests/compose/learn/toy.h"

namespace motet::learn {
namespace {

using math::Product;
using math::Tensor;
using model::Block;

// Sequences of unequal lengths, so that a mean of means is another number.
std::vector<std::vector<int32_t>> Text() {
  std::vector<std::vector<int32_t>> text;
  uint64_t n = 0;
  for (int64_t length : {9, 3, 14, 2, 7, 21, 1, 5}) {
    text.emplace_back();
    for (int64_t i = 0; i < length; ++i) {
      text.back().push_back(static_cast<int32_t>(Mix(n++) % 27));
    }
  }
  return text;
}

struct Outcome {
  StepResult result;
  std::vector<std::string> names;
  std::vector<std::vector<float>> gradients;
  int64_t peak = 0;
};

class StepTest : public testing::TestWithParam<Block> {
 protected:
  StepOptions Options() const {
    StepOptions options;
    options.router_z_weight = 0.05;
    options.lm_z_weight = 0.02;
    return options;
  }
  Outcome Run(const model::Decoder& decoder,
              const std::vector<Parameter>& parameters,
              const StepOptions& options) {
    Stepper stepper(decoder, parameters, options);
    std::vector<std::span<const int32_t>> sequences(text_.begin(),
                                                    text_.end());
    // Twice: a step must not see the one before it.
    stepper.Gradients(std::span(sequences).first(3));
    Outcome outcome;
    outcome.result = stepper.Gradients(sequences);
    outcome.peak = stepper.peak_bytes();
    for (const Optimizer::Item& item : stepper.optimizer().items()) {
      const Tensor& g = item.gradient;
      outcome.names.push_back(item.parameter.name);
      outcome.gradients.emplace_back(g.f32(), g.f32() + g.size());
    }
    EXPECT_NEAR(stepper.Evaluate(sequences).loss, outcome.result.loss, 1e-12);
    return outcome;
  }
  // Both decoders that runs train.
  template <typename Body>
  void ForBoth(const Body& body) {
    OwnedModel model = toy::Model(toy::Config(GetParam()), 5);
    {
      SCOPED_TRACE("dense");
      auto decoder = model::Decoder::Create(model.config, model.weights, {});
      ASSERT_TRUE(decoder.ok()) << decoder.status();
      body(*decoder, DenseParameters(model));
    }
    SCOPED_TRACE("pair");
    const auto base = toy::Loaded(model);
    OwnerExpert expert = NewOwnerExpert(*base);
    uint64_t n = 0;
    for (const Parameter& p : OwnerParameters(expert)) {
      Tensor t = p.value;
      for (int64_t i = 0; i < t.size(); ++i) {
        t.f32()[i] = static_cast<float>(0.3 * Normal(7, n++));
      }
    }
    auto decoder = PairDecoder(*base, expert);
    ASSERT_TRUE(decoder.ok()) << decoder.status();
    body(*decoder, OwnerParameters(expert));
  }

  const std::vector<std::vector<int32_t>> text_ = Text();
};

TEST_P(StepTest, PiecesAddUpToTheWholeBatch) {
  ForBoth([&](const model::Decoder& decoder,
              const std::vector<Parameter>& parameters) {
    const Outcome whole = Run(decoder, parameters, Options());
    for (int64_t pieces : {2, 3, 5}) {
      SCOPED_TRACE(pieces);
      StepOptions options = Options();
      options.accumulation = pieces;
      const Outcome parts = Run(decoder, parameters, options);
      EXPECT_NEAR(parts.result.loss, whole.result.loss, 1e-5);
      EXPECT_NEAR(parts.result.cross_entropy, whole.result.cross_entropy,
                  1e-5);
      EXPECT_NEAR(parts.result.router_z, whole.result.router_z, 1e-5);
      EXPECT_NEAR(parts.result.lm_z, whole.result.lm_z, 1e-4);
      for (size_t i = 0; i < whole.gradients.size(); ++i) {
        double largest = 0, worst = 0;
        for (size_t j = 0; j < whole.gradients[i].size(); ++j) {
          const double want = whole.gradients[i][j];
          largest = std::max(largest, std::abs(want));
          worst = std::max(worst, std::abs(parts.gradients[i][j] - want));
        }
        EXPECT_LE(worst, 2e-6 * std::max(1.0, largest)) << whole.names[i];
      }
    }
  });
}

TEST_P(StepTest, RecomputedLayersGiveTheSameBits) {
  ForBoth([&](const model::Decoder& decoder,
              const std::vector<Parameter>& parameters) {
    for (Product product : {Product::kExact, Product::kLibrary}) {
      StepOptions options = Options();
      options.product = product;
      const Outcome kept = Run(decoder, parameters, options);
      for (int64_t layers : {1, 2, -1}) {
        SCOPED_TRACE(layers);
        options.recompute_layers = layers;
        const Outcome again = Run(decoder, parameters, options);
        EXPECT_EQ(again.result.loss, kept.result.loss);
        EXPECT_EQ(again.result.router_z, kept.result.router_z);
        EXPECT_EQ(again.result.gradient_norm, kept.result.gradient_norm);
        EXPECT_EQ(again.gradients, kept.gradients);
        EXPECT_LT(again.peak, kept.peak);
      }
    }
  });
}

TEST_P(StepTest, RecomputedPiecesOfABatch) {
  ForBoth([&](const model::Decoder& decoder,
              const std::vector<Parameter>& parameters) {
    StepOptions options = Options();
    options.accumulation = 3;
    const Outcome kept = Run(decoder, parameters, options);
    options.recompute_layers = -1;
    EXPECT_EQ(Run(decoder, parameters, options).gradients, kept.gradients);
  });
}

// Records that a forward pass leaves on the tape, and its gradients' memory.
size_t Records(const model::Decoder& decoder,
               const std::vector<Parameter>& parameters) {
  math::Arena arena, gradients;
  Tape tape(gradients);
  for (const Parameter& p : parameters) tape.Watch(p.watched);
  math::Exec exec(math::Reference(), arena, Product::kExact, &tape);
  const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9};
  model::SequenceInput input;
  input.ids = ids;
  const model::Batch batch(std::span(&input, 1));
  const Tensor hidden = decoder.Forward(exec, batch);
  const std::vector<int32_t> targets = {1, 4, 1, 5, 9, -1};
  exec.HeadLoss(hidden, decoder.weights().head, targets, 5, 0);
  return tape.records();
}

TEST_P(StepTest, FrozenTensorsCostNothing) {
  OwnedModel model = toy::Model(toy::Config(GetParam()), 5);
  auto decoder = model::Decoder::Create(model.config, model.weights, {});
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  const std::vector<Parameter> all = DenseParameters(model);
  const Outcome whole = Run(*decoder, all, Options());
  const auto frozen = [&](const std::vector<std::string>& patterns) {
    auto left = WithoutFrozen(all, patterns);
    EXPECT_TRUE(left.ok()) << left.status();
    return *std::move(left);
  };
  // The head alone: not one operator is recorded.
  EXPECT_EQ(Records(*decoder, frozen({"model.*"})), 0u);
  // Only the last layer's FFN: nothing in front of it.
  const std::vector<Parameter> last =
      frozen({"lm_head.*", "model.norm.*", "model.embed_tokens.*",
              "model.layers.0.*", "*attn*", "*layernorm*"});
  ASSERT_EQ(last.size(), 3u);
  // gate, up, swiglu, down, the norm behind it where there is one, add,
  // final norm.
  EXPECT_EQ(Records(*decoder, last),
            GetParam() == Block::kPostNorm ? 7u : 6u);
  EXPECT_LT(Records(*decoder, frozen({"model.embed_tokens.*"})),
            Records(*decoder, all));
  // What is trained gets the gradient that it got before.
  for (const auto& parameters :
       {last, frozen({"model.*"}), frozen({"*norm*", "*embed*"})}) {
    const Outcome part = Run(*decoder, parameters, Options());
    EXPECT_EQ(part.result.loss, whole.result.loss);
    for (size_t i = 0; i < part.names.size(); ++i) {
      const auto at = std::find(whole.names.begin(), whole.names.end(),
                                part.names[i]) -
                      whole.names.begin();
      EXPECT_EQ(part.gradients[i], whole.gradients[static_cast<size_t>(at)])
          << part.names[i];
    }
    EXPECT_LE(part.peak, whole.peak);
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, StepTest,
                         testing::Values(Block::kPreNorm, Block::kPostNorm),
                         [](const auto& info) {
                           return info.param == Block::kPreNorm ? "PreNorm"
                                                                : "PostNorm";
                         });

// 512 rows of a vocabulary of 70,000 would be 143 MB of logits and as much
// of their gradient.
TEST(HeadLossTest, LogitsAreNeverWhole) {
  const int64_t rows = 512, cols = 8, vocabulary = 70000;
  std::vector<float> h(static_cast<size_t>(rows * cols));
  std::vector<float> w(static_cast<size_t>(vocabulary * cols));
  for (size_t i = 0; i < h.size(); ++i) {
    h[i] = static_cast<float>(Normal(1, i));
  }
  for (size_t i = 0; i < w.size(); ++i) {
    w[i] = static_cast<float>(Normal(2, i));
  }
  const auto view = [](std::vector<float>& data, math::Shape shape) {
    Tensor t;
    t.data = data.data();
    t.shape = shape;
    return t;
  };
  const Tensor hidden = view(h, {rows, cols});
  const Tensor head = view(w, {vocabulary, cols});
  std::vector<int32_t> targets;
  for (int64_t i = 0; i < rows; ++i) {
    targets.push_back(i % 7 == 0 ? -1 : static_cast<int32_t>(i * 131));
  }
  const auto count = std::count_if(targets.begin(), targets.end(),
                                   [](int32_t t) { return t >= 0; });
  math::Arena arena, gradients;
  Tape tape(gradients);
  tape.Watch(hidden);
  tape.Watch(head);
  math::Exec exec(math::Cpu(), arena, Product::kLibrary, &tape);
  const double loss = exec.HeadLoss(hidden, head, targets, count, 1e-3);
  EXPECT_LT(arena.peak_bytes(), int64_t{80} << 20);
  EXPECT_EQ(gradients.peak_bytes(), 0);

  math::Arena plain_arena, plain_gradients;
  Tape plain(plain_gradients);
  plain.Watch(hidden);
  plain.Watch(head);
  math::Exec whole(math::Cpu(), plain_arena, Product::kLibrary, &plain);
  EXPECT_NEAR(whole.CrossEntropy(whole.Linear(hidden, head), targets, 1e-3),
              loss, 1e-6);
  plain.Backward();
  for (const Tensor& t : {hidden, head}) {
    const Tensor got = tape.Gradient(t), want = plain.Gradient(t);
    double worst = 0;
    for (int64_t i = 0; i < t.size(); ++i) {
      worst = std::max(worst,
                       std::abs(double{got.f32()[i]} - want.f32()[i]));
    }
    EXPECT_LE(worst, 1e-7);
  }
}

TEST(FreezeTest, Patterns) {
  for (const auto& [pattern, name, want] :
       std::vector<std::tuple<std::string, std::string, bool>>{
           {"model.embed_tokens.*", "model.embed_tokens.weight", true},
           {"*.norm.*", "model.norm.weight", true},
           {"*.norm.*", "model.layers.0.input_layernorm.weight", false},
           {"*norm*", "model.layers.0.input_layernorm.weight", true},
           {"model.layers.?.mlp.*", "model.layers.3.mlp.up_proj.weight", true},
           {"model.layers.?.mlp.*", "model.layers.13.mlp.up_proj.weight",
            false},
           {"", "a", false},
           {"", "", true},
           {"*", "", true},
           {"?", "", false},
           {"a*b*c", "aXbYbZc", true},
           {"a*b*c", "aXbYbZ", false},
           {"model", "model.norm", false}}) {
    EXPECT_EQ(Matches(pattern, name), want) << pattern << " " << name;
  }
}

TEST(FreezeTest, PatternsThatFreezeNothingOrEverythingAreNamed) {
  OwnedModel model = toy::Model(toy::Config(Block::kPreNorm), 5);
  const auto message = [&](const std::vector<std::string>& patterns) {
    return std::string(
        WithoutFrozen(DenseParameters(model), patterns).status().message());
  };
  EXPECT_NE(message({"*norm*", "model.embed_token.*"})
                .find("\"model.embed_token.*\""),
            std::string::npos);
  EXPECT_EQ(message({"*norm*", "oops"}).find("*norm*"), std::string::npos);
  EXPECT_NE(message({"*"}).find("every tensor"), std::string::npos);
}

}  // namespace
}  // namespace motet::learn
