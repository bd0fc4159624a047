// SPDX-License-Identifier: Apache-2.0
#include "tests/compose/model/random_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace motet::model {
namespace {

using math::Shape;
using math::Tensor;

constexpr int64_t kTextTokens = 60;
constexpr int kTexts = 10;

// The inverse of a symmetric positive definite matrix, by Gauss-Jordan
// without pivots (none are needed).
std::vector<double> Inverse(std::vector<double> a, int64_t n) {
  std::vector<double> inverse(n * n);
  for (int64_t i = 0; i < n; ++i) inverse[i * n + i] = 1;
  for (int64_t i = 0; i < n; ++i) {
    const double pivot = a[i * n + i];
    for (int64_t j = 0; j < n; ++j) {
      a[i * n + j] /= pivot;
      inverse[i * n + j] /= pivot;
    }
    for (int64_t k = 0; k < n; ++k) {
      if (k == i) continue;
      const double factor = a[k * n + i];
      for (int64_t j = 0; j < n; ++j) {
        a[k * n + j] -= factor * a[i * n + j];
        inverse[k * n + j] -= factor * inverse[i * n + j];
      }
    }
  }
  return inverse;
}

// A layer's router inputs in the base alone, sorted by the subject, and what
// the gate will see beside them.
struct Inputs {
  std::vector<std::vector<float>> rows;      // by subject, [n, C]
  std::vector<std::vector<float>> smoothed;  // the same of H
};

std::vector<Inputs> RouterInputs(const Decoder& base, int64_t experts,
                                 double smoothing) {
  const ModelConfig& config = base.config();
  const int64_t width = config.width;
  Inputs none = {std::vector<std::vector<float>>(experts),
                 std::vector<std::vector<float>>(experts)};
  std::vector<Inputs> layers(config.layers, none);
  for (int seed = 0; seed < kTexts; ++seed) {
    const auto text = RandomModel::Text(config, 1000 + seed, kTextTokens);
    math::Arena arena;
    math::Exec exec(math::Reference(), arena, math::Product::kExact);
    const SequenceInput input = {text, nullptr, 1};
    const Batch batch({&input, 1});
    Trace trace;
    base.Forward(exec, batch, &trace);
    for (int64_t l = 0; l < config.layers; ++l) {
      const float* row = trace.router_input[l].f32();
      std::vector<float> hidden(row, row + width);
      for (int64_t t = 0; t < kTextTokens; ++t, row += width) {
        for (int64_t c = 0; c < width; ++c) {
          hidden[c] = static_cast<float>(smoothing * hidden[c] +
                                         (1 - smoothing) * row[c]);
        }
        const int subject = RandomModel::SubjectAt(1000 + seed, t);
        if (subject >= experts) continue;
        auto& rows = layers[l].rows[subject];
        auto& smoothed = layers[l].smoothed[subject];
        rows.insert(rows.end(), row, row + width);
        smoothed.insert(smoothed.end(), hidden.begin(), hidden.end());
      }
    }
  }
  return layers;
}

std::vector<double> MeanOf(const std::vector<float>& rows, int64_t width) {
  std::vector<double> mean(width);
  const int64_t count = static_cast<int64_t>(rows.size()) / width;
  for (size_t i = 0; i < rows.size(); ++i) mean[i % width] += rows[i];
  for (double& m : mean) m /= count;
  return mean;
}

// The rows' distances to a mean, ascending.
std::vector<double> Distances(const std::vector<float>& rows,
                              const std::vector<double>& mean,
                              const std::vector<double>& precision) {
  const int64_t width = static_cast<int64_t>(mean.size());
  std::vector<double> distances;
  for (auto row = rows.begin(); row != rows.end(); row += width) {
    double distance = 0;
    for (int64_t i = 0; i < width; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        distance +=
            (row[i] - mean[i]) * precision[i * width + j] * (row[j] - mean[j]);
      }
    }
    distances.push_back(distance);
  }
  std::sort(distances.begin(), distances.end());
  return distances;
}

// One layer's anchored parameters.                            [METHODS 11]
math::AnchoredLayer Anchor(const Inputs& inputs, const Tensor& rows,
                           float smoothing, Storage& storage) {
  const int64_t width = rows.cols();
  const int64_t experts = rows.rows();
  // Sigma: the covariance within a subject, pooled.
  std::vector<double> sigma(width * width);
  int64_t count = 0;
  for (const std::vector<float>& input : inputs.rows) {
    const std::vector<double> mean = MeanOf(input, width);
    count += static_cast<int64_t>(input.size()) / width;
    for (size_t row = 0; row < input.size() / width; ++row) {
      for (int64_t i = 0; i < width * width; ++i) {
        sigma[i] += (input[row * width + i / width] - mean[i / width]) *
                    (input[row * width + i % width] - mean[i % width]);
      }
    }
  }
  double trace = 0;
  for (double& s : sigma) s /= count;
  for (int64_t i = 0; i < width; ++i) trace += sigma[i * width + i];
  for (int64_t i = 0; i < width; ++i) {
    sigma[i * width + i] += 1e-2 * trace / width;
  }
  const std::vector<double> precision = Inverse(sigma, width);
  std::vector<float> select, offset, pair_mean, threshold;
  for (int64_t e = 0; e < experts; ++e) {
    const std::vector<double> mean = MeanOf(inputs.rows[e], width);
    double product = 0;
    for (int64_t i = 0; i < width; ++i) {
      double w = 0;
      for (int64_t j = 0; j < width; ++j) {
        w += precision[i * width + j] * mean[j];
      }
      select.push_back(static_cast<float>(w));
      pair_mean.push_back(static_cast<float>(mean[i]));
      product += w * mean[i];
    }
    offset.push_back(static_cast<float>(-0.5 * product));
    // Low enough that the gate closes for many tokens, open for many.
    const std::vector<double> distances =
        Distances(inputs.smoothed[e], mean, precision);
    threshold.push_back(
        e == 0 ? std::numeric_limits<float>::infinity()
               : static_cast<float>(distances[distances.size() * 9 / 10]));
  }
  math::AnchoredLayer layer;
  layer.select = storage.Copy(select, {experts, width});
  layer.offset = storage.Copy(offset, {experts});
  layer.pair_mean = storage.Copy(pair_mean, {experts, width});
  layer.threshold = storage.Copy(threshold, {experts});
  layer.precision =
      storage.Copy({precision.begin(), precision.end()}, {width, width});
  layer.rows = rows;
  layer.smoothing = smoothing;
  return layer;
}

}  // namespace

void* Storage::Allocate(int64_t bytes) {
  blocks_.push_back(std::make_unique<char[]>(bytes));
  return blocks_.back().get();
}

Tensor Storage::Normal(const Shape& shape, double scale, double mean,
                       std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(shape.size());
  for (float& v : values) {
    v = static_cast<float>(mean + scale * normal(random));
  }
  return Copy(values, shape);
}

Tensor Storage::Copy(const std::vector<float>& values, const Shape& shape) {
  Tensor t;
  t.shape = shape;
  MOTET_CHECK(static_cast<int64_t>(values.size()) == shape.size());
  t.data = Allocate(t.bytes());
  std::memcpy(t.data, values.data(), t.bytes());
  return t;
}

Tensor Storage::Rows(const Tensor& t, const std::vector<int>& which) {
  Tensor out = t;
  out.shape.dim[0] = static_cast<int64_t>(which.size());
  out.data = Allocate(out.bytes());
  const int64_t stride = t.bytes() / t.shape.dim[0];
  for (size_t i = 0; i < which.size(); ++i) {
    std::memcpy(static_cast<char*>(out.data) + i * stride,
                static_cast<const char*>(t.data) + which[i] * stride, stride);
  }
  return out;
}

Tensor Storage::ToBf16(const Tensor& t) {
  Tensor out = t;
  out.dtype = math::DType::kBF16;
  out.data = Allocate(out.bytes());
  for (int64_t i = 0; i < t.size(); ++i) {
    static_cast<uint16_t*>(out.data)[i] = math::NarrowBf16(t.f32()[i]);
  }
  return out;
}

int RandomModel::SubjectAt(uint64_t seed, int64_t position) {
  return static_cast<int>((seed + position / kPiece) % 5);
}

std::vector<int32_t> RandomModel::Text(const ModelConfig& config, uint64_t seed,
                                       int64_t tokens) {
  std::mt19937_64 random(seed);
  const int64_t part = config.vocabulary / 5;
  std::vector<int32_t> ids(tokens);
  for (int64_t i = 0; i < tokens; ++i) {
    const uint64_t draw = random() >> 8;
    ids[i] = static_cast<int32_t>(
        random() % 8 == 0 ? draw % config.vocabulary
                          : SubjectAt(seed, i) * part + draw % part);
  }
  return ids;
}

RandomModel MakeRandomModel(Block block, int64_t experts, bool bf16,
                            uint64_t seed, bool large,
                            AttentionExperts attention) {
  RandomModel model;
  ModelConfig& config = model.config;
  config.block = block;
  if (block != Block::kPostNorm) config.qk_norm = QkNorm::kNone;
  config.vocabulary = large ? 603 : 83;
  config.width = large ? 92 : 28;
  config.layers = 3;
  config.heads = 6;
  config.kv_heads = 2;
  config.head_dim = large ? 18 : 6;
  config.ffn_width = large ? 203 : 22;
  config.max_positions = 256;
  config.experts = experts;
  config.experts_per_token = std::min<int64_t>(2, experts);
  config.renormalise = block != Block::kPostNorm;
  config.attention_experts = attention;
  std::mt19937_64 random(seed);
  Storage& storage = *model.storage;
  VisitWeights(config, model.weights,
               [&](const std::string& name, const Shape& shape, Tensor& t) {
                 if (shape.rank == 1) {
                   t = storage.Normal(shape, 0.2, 1, random);
                   return;
                 }
                 const bool router = shape.dim[0] == experts;
                 const double scale =
                     name == "model.embed_tokens.weight"
                         ? 1
                         : (router ? 3 : 1) / std::sqrt(shape.dim[1]);
                 t = storage.Normal(shape, scale, 0, random);
                 if (bf16) t = storage.ToBf16(t);
               });
  // Experts may be wider or narrower than the base.
  for (LayerWeights& layer : model.weights.layers) {
    for (int64_t e = 1; e < experts; ++e) {
      const int64_t own = config.ffn_width + 5 * (e % 3) - 4;
      FfnWeights& ffn = layer.experts[e];
      ffn.gate = storage.Normal({own, config.width}, 0.2, 0, random);
      ffn.up = storage.Normal({own, config.width}, 0.2, 0, random);
      ffn.down = storage.Normal({config.width, own}, 0.2, 0, random);
      if (!bf16) continue;
      for (Tensor* t : {&ffn.gate, &ffn.up, &ffn.down}) {
        *t = storage.ToBf16(*t);
      }
    }
  }
  model.top_k.k = config.experts_per_token;
  model.top_k.renormalise = config.renormalise;

  const RandomModel base = Dense(model);
  const Decoder decoder =
      *Decoder::Create(base.config, base.weights, base.top_k);
  constexpr float kSmoothing = 0.6f;
  const std::vector<Inputs> inputs = RouterInputs(decoder, experts, kSmoothing);
  model.anchored.kind = Router::Kind::kAnchored;
  for (int64_t l = 0; l < config.layers; ++l) {
    const Tensor rows = storage.Normal({experts, config.width}, 0.3, 0, random);
    model.anchored.anchored.push_back(
        Anchor(inputs[l], rows, kSmoothing, storage));
  }
  return model;
}

RandomModel BuildFrom(const RandomModel& model,
                      const std::vector<int>& experts) {
  RandomModel built = model;
  built.storage = std::make_shared<Storage>();
  Storage& storage = *built.storage;
  const int64_t count = static_cast<int64_t>(experts.size());
  built.config.experts = count;
  built.config.experts_per_token =
      std::min(model.config.experts_per_token, count);
  built.top_k.k = built.config.experts_per_token;
  for (size_t l = 0; l < built.weights.layers.size(); ++l) {
    const LayerWeights& from = model.weights.layers[l];
    LayerWeights& layer = built.weights.layers[l];
    layer.router = storage.Rows(from.router, experts);
    layer.experts.clear();
    for (int e : experts) layer.experts.push_back(from.experts[e]);
    if (!from.attention_experts.empty()) {
      layer.attention_router = storage.Rows(from.attention_router, experts);
      layer.attention_experts.clear();
      for (int e : experts) {
        layer.attention_experts.push_back(from.attention_experts[e]);
      }
    }
    math::AnchoredLayer& anchored = built.anchored.anchored[l];
    for (Tensor* t : {&anchored.select, &anchored.offset, &anchored.pair_mean,
                      &anchored.threshold, &anchored.rows}) {
      *t = storage.Rows(*t, experts);
    }
  }
  return built;
}

RandomModel Dense(const RandomModel& model) {
  RandomModel dense = model;
  dense.config.experts = dense.config.experts_per_token = 0;
  dense.config.renormalise = false;
  dense.config.attention_experts = AttentionExperts::kNone;
  dense.anchored.anchored.clear();
  for (LayerWeights& layer : dense.weights.layers) {
    layer.router = Tensor{};
    layer.experts.resize(1);
    if (layer.attention_experts.empty()) continue;
    AttentionWeights own = layer.attention_experts[0];
    if (own.k.empty()) {
      for (auto part : {&AttentionWeights::k, &AttentionWeights::v,
                        &AttentionWeights::k_bias, &AttentionWeights::v_bias,
                        &AttentionWeights::k_norm}) {
        own.*part = layer.*part;
      }
    }
    static_cast<AttentionWeights&>(layer) = own;
    layer.attention_experts.clear();
    layer.attention_router = Tensor{};
  }
  return dense;
}

}  // namespace motet::model
