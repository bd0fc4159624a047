// SPDX-License-Identifier: Apache-2.0
// Anchored routing against the float64 fixture methods/anchored: scores,
// smoothing, distances, choices, pair weights and outputs for four expert
// sets, through a real decoder. Its first layer is made transparent: the
// embedding holds the fixture's h, and an attention norm of weight 0 lets it
// pass, so the router reads h exactly.
#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compose/learn/cholesky.h"
#include "compose/model/decoder.h"
#include "gtest/gtest.h"
#include "tests/golden/fixtures.h"

namespace motet::golden {
namespace {

using math::ExpertMask;
using math::Kernels;
using math::Tensor;
using model::Batch;
using model::Decoder;
using model::SequenceInput;

constexpr double kTolerance = 1e-5;
constexpr float kEps = 1e-12f;

class AnchoredTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    MOTET_GOLDEN_OR_SKIP();
    fixture_ = std::make_unique<Fixture>("methods/anchored");
    ASSERT_TRUE(fixture_->ok());
    const math::Shape shape = fixture_->ShapeOf("h");
    sequences_ = shape.dim[0];
    tokens_ = shape.dim[1];
    config_.width = shape.dim[2];
    config_.experts = fixture_->ShapeOf("mu").dim[0];
    config_.ffn_width = fixture_->ShapeOf("expert.0.gate").dim[0];
    config_.vocabulary = sequences_ * tokens_;
    config_.layers = 2;
    config_.heads = config_.kv_heads = 2;
    config_.head_dim = 8;
    config_.max_positions = 64;
    config_.norm_eps = kEps;
    config_.experts_per_token = 2;
    for (int32_t i = 0; i < sequences_ * tokens_; ++i) ids_.push_back(i);
    BuildWeights();
    BuildRouter();
  }

  const Kernels& kernels() const {
    return GetParam() ? math::Reference() : math::Cpu();
  }
  Tensor Put(const std::vector<float>& values, const math::Shape& shape) {
    Tensor t = numbers_.New(shape);
    MOTET_CHECK(static_cast<int64_t>(values.size()) == t.size());
    std::copy(values.begin(), values.end(), t.f32());
    return t;
  }

  void BuildWeights() {
    model::VisitWeights(config_, weights_,
                        [&](const std::string& name, const math::Shape& shape,
                            Tensor& t) { t = numbers_.Zeros(shape); });
    weights_.embed = Put(fixture_->Floats("h"), weights_.embed.shape);
    for (model::LayerWeights& layer : weights_.layers) {
      for (int64_t e = 0; e < config_.experts; ++e) {
        const std::string prefix = "expert." + std::to_string(e) + ".";
        model::FfnWeights& ffn = layer.experts[e];
        ffn.gate = Put(fixture_->Floats(prefix + "gate"), ffn.gate.shape);
        ffn.up = Put(fixture_->Floats(prefix + "up"), ffn.up.shape);
        ffn.down = Put(fixture_->Floats(prefix + "down"), ffn.down.shape);
      }
    }
    // Layer 0 adds norm(y), so that y can be told from its output; layer 1
    // adds nothing.
    Tensor& ones = weights_.layers[0].ffn_norm;
    std::fill_n(ones.f32(), ones.size(), 1.0f);
  }

  void BuildRouter() {
    const int64_t width = config_.width, experts = config_.experts;
    precision_ = fixture_->Doubles("sigma");
    double trace = 0;
    for (int64_t i = 0; i < width; ++i) trace += precision_[i * width + i];
    for (int64_t i = 0; i < width; ++i) {
      precision_[i * width + i] += 1e-2 * trace / width;
    }
    ASSERT_TRUE(learn::InvertPositive(precision_, width));
    const std::vector<double> mu = fixture_->Doubles("mu");
    std::vector<float> select, offset;
    for (int64_t e = 0; e < experts; ++e) {
      double product = 0;
      for (int64_t i = 0; i < width; ++i) {
        double w = 0;
        for (int64_t j = 0; j < width; ++j) {
          w += precision_[i * width + j] * mu[e * width + j];
        }
        select.push_back(static_cast<float>(w));
        product += w * mu[e * width + i];
      }
      offset.push_back(static_cast<float>(-0.5 * product));
    }
    math::AnchoredLayer layer;
    layer.select = Put(select, {experts, width});
    layer.offset = Put(offset, {experts});
    layer.pair_mean = Put(fixture_->Floats("pair_mean"), {experts, width});
    layer.threshold = Put(fixture_->Floats("tau"), {experts});
    layer.precision =
        Put({precision_.begin(), precision_.end()}, {width, width});
    layer.rows = Put(fixture_->Floats("rows"), {experts, width});
    layer.smoothing = fixture_->meta()["a"].get<float>();
    router_.kind = model::Router::Kind::kAnchored;
    router_.anchored = {layer, layer};
  }

  Decoder Make() const {
    auto decoder = Decoder::Create(config_, weights_, router_);
    MOTET_CHECK(decoder.ok());
    return *std::move(decoder);
  }

  std::unique_ptr<Fixture> fixture_;
  int64_t sequences_ = 0, tokens_ = 0;
  model::ModelConfig config_;
  model::ModelWeights weights_;
  model::Router router_;
  std::vector<double> precision_;
  std::vector<int32_t> ids_;
  math::Arena numbers_;
};

// h + y / rms(y), what layer 0 leaves.
std::vector<double> LayerOutput(const std::vector<double>& h,
                                const std::vector<double>& y, int64_t width) {
  std::vector<double> out = h;
  for (size_t row = 0; row < h.size(); row += width) {
    double square = 0;
    for (int64_t c = 0; c < width; ++c) square += y[row + c] * y[row + c];
    const double rms = std::sqrt(square / width + kEps);
    for (int64_t c = 0; c < width; ++c) out[row + c] += y[row + c] / rms;
  }
  return out;
}

TEST_P(AnchoredTest, ChoicesWeightsAndOutputs) {
  const Decoder decoder = Make();
  const std::vector<std::vector<int>> sets = {
      {0, 1, 2, 3}, {0, 2, 3}, {0, 1}, {0}};
  for (const std::vector<int>& set : sets) {
    std::string tag;
    ExpertMask allowed = 0;
    for (int e : set) {
      tag += (tag.empty() ? "" : "_") + std::to_string(e);
      allowed |= ExpertMask{1} << e;
    }
    SCOPED_TRACE(tag);
    std::vector<SequenceInput> inputs;
    for (int64_t s = 0; s < sequences_; ++s) {
      inputs.push_back(
          {std::span(ids_).subspan(s * tokens_, tokens_), nullptr, allowed});
    }
    const Batch batch(inputs);
    math::Arena arena;
    math::Exec exec(kernels(), arena, math::Product::kExact);
    model::Trace trace;
    decoder.Forward(exec, batch, &trace);
    ASSERT_TRUE(std::ranges::equal(Values(trace.router_input[0]),
                                   fixture_->Floats("h")));
    const std::vector<int32_t> choice = fixture_->Ids("choice." + tag);
    const math::Routing& routing = trace.routing[0];
    for (int64_t m = 0; m < batch.rows(); ++m) {
      EXPECT_EQ(routing.idx.i32()[2 * m], 0);
      EXPECT_EQ(std::max(routing.idx.i32()[2 * m + 1], 0), choice[m])
          << "row " << m;
    }
    EXPECT_TRUE(
        Close(Values(routing.w), fixture_->Doubles("pair." + tag), kTolerance));
    EXPECT_TRUE(Close(Values(trace.hidden[1]),
                      LayerOutput(fixture_->Doubles("h"),
                                  fixture_->Doubles("y." + tag), config_.width),
                      kTolerance));
  }
}

// Token by token through a cache, whose state then shows S and H.
TEST_P(AnchoredTest, ScoresSmoothingAndDistances) {
  const int64_t experts = config_.experts, width = config_.width;
  const std::vector<float> mean = fixture_->Floats("pair_mean");
  for (const bool smoothed : {true, false}) {
    for (math::AnchoredLayer& layer : router_.anchored) {
      layer.smoothing = smoothed ? fixture_->meta()["a"].get<float>() : 0;
    }
    const Decoder decoder = Make();
    std::vector<float> scores, distances;
    for (int64_t s = 0; s < sequences_; ++s) {
      model::SequenceCache cache(config_, tokens_, experts);
      for (int64_t t = 0; t < tokens_; ++t) {
        const SequenceInput input = {
            std::span(ids_).subspan(s * tokens_ + t, 1), &cache};
        const Batch batch({&input, 1});
        math::Arena arena;
        math::Exec exec(kernels(), arena, math::Product::kExact);
        decoder.Forward(exec, batch);
        const math::AnchoredState state = cache.anchored(0);
        scores.insert(scores.end(), state.scores, state.scores + experts);
        for (int64_t e = 0; e < experts; ++e) {
          double distance = 0;
          for (int64_t i = 0; i < width * width; ++i) {
            const int64_t a = i / width, b = i % width;
            distance += (double{state.hidden[a]} - mean[e * width + a]) *
                        router_.anchored[0].precision.f32()[i] *
                        (double{state.hidden[b]} - mean[e * width + b]);
          }
          distances.push_back(static_cast<float>(distance));
        }
      }
    }
    EXPECT_TRUE(Close(scores, fixture_->Doubles(smoothed ? "smoothed" : "s"),
                      kTolerance));
    if (smoothed) {
      EXPECT_TRUE(Close(distances, fixture_->Doubles("distance"), kTolerance));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, AnchoredTest, testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Reference" : "Cpu";
                         });

}  // namespace
}  // namespace motet::golden
