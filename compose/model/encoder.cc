// SPDX-License-Identifier: Apache-2.0
#include "compose/model/encoder.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/error.h"

namespace motet::model {
namespace {

using math::Exec;
using math::Tensor;

// Rows of a batch in Encode: a layer's widest result should stay in the
// second-level cache, and products want some hundred rows.
constexpr int64_t kBatchRows = 512;

// y + scale B (A x) with an adapter on this map, else y = W x as it is. With
// noise, A reads x after dropout, as PEFT trains.
Tensor Adapted(Exec& exec, const Lora* lora, std::optional<uint64_t> noise,
               int64_t layer, EncoderMap map, const Tensor& x,
               const Tensor& y) {
  if (lora == nullptr) return y;
  const LoraPair& pair = lora->At(static_cast<size_t>(layer), map);
  if (pair.a.empty()) return y;
  Tensor in = x;
  if (noise.has_value()) {
    // Seeds of maps far apart: an odd multiple of their number.
    const auto number = static_cast<uint64_t>(layer) * kEncoderMaps +
                        static_cast<uint64_t>(map);
    in = exec.Dropout(x, lora->config.dropout,
                      *noise + (number + 1) * 0x9e3779b97f4a7c15u);
  }
  const Tensor low = exec.Linear(in, pair.a);
  return exec.AddScaled(y, lora->scale(), exec.Linear(low, pair.b));
}

}  // namespace

EncoderBatch::EncoderBatch(std::span<const EncoderInput> sequences) {
  size_t rows = 0;
  for (const EncoderInput& s : sequences) rows += s.ids.size();
  ids_.reserve(rows);
  types_.reserve(rows);
  positions_.reserve(rows);
  for (const EncoderInput& s : sequences) {
    math::Segment segment;
    segment.row = this->rows();
    segment.rows = static_cast<int64_t>(s.ids.size());
    segments_.push_back(segment);
    ids_.insert(ids_.end(), s.ids.begin(), s.ids.end());
    if (s.types.empty()) {
      types_.insert(types_.end(), s.ids.size(), 0);
    } else {
      types_.insert(types_.end(), s.types.begin(), s.types.end());
    }
    for (int32_t p = 0; p < segment.rows; ++p) positions_.push_back(p);
  }
}

Encoder::Encoder(EncoderConfig config, EncoderWeights weights, bool normalise)
    : config_(config), weights_(std::move(weights)), normalise_(normalise) {}

absl::StatusOr<Encoder> Encoder::Create(const EncoderConfig& config,
                                        EncoderWeights weights,
                                        bool normalise) {
  MOTET_RETURN_IF_ERROR(CheckEncoderConfig(config));
  MOTET_RETURN_IF_ERROR(CheckEncoderWeights(config, weights));
  return Encoder(config, std::move(weights), normalise);
}

absl::Status Encoder::CheckInput(const EncoderInput& input) const {
  const auto refuse = [](const std::string& got, const std::string& want) {
    return proto::Invalid("encoder input", got, want,
                          "tokenize with this encoder's own tokenizer");
  };
  const auto length = static_cast<int64_t>(input.ids.size());
  if (length < 1 || length > config_.max_positions) {
    return refuse(absl::StrCat(length, " tokens"),
                  absl::StrCat("1 to ", config_.max_positions));
  }
  if (!input.types.empty() && input.types.size() != input.ids.size()) {
    return refuse(absl::StrCat(input.types.size(), " token types"),
                  absl::StrCat("none or ", length));
  }
  for (int32_t id : input.ids) {
    if (id < 0 || id >= config_.vocabulary) {
      return refuse(absl::StrCat("token id ", id),
                    absl::StrCat("0 to ", config_.vocabulary - 1));
    }
  }
  for (int32_t type : input.types) {
    if (type < 0 || type >= config_.token_types) {
      return refuse(absl::StrCat("token type ", type),
                    absl::StrCat("0 to ", config_.token_types - 1));
    }
  }
  return absl::OkStatus();
}

// From ids to hidden states.
//   x = norm(words[id] + types[type] + positions[p]);   x = layer_l(x)
// x: [M,C].
Tensor Encoder::Forward(Exec& exec, const EncoderBatch& batch,
                        const Lora* lora,
                        std::optional<uint64_t> noise) const {
  const EncoderWeights& w = weights_;
  Tensor x = exec.Add(exec.Embed(batch.ids(), w.words),
                      exec.Embed(batch.types(), w.types));
  x = exec.Add(x, exec.Embed(batch.positions(), w.positions));
  x = exec.LayerNorm(x, w.embedding_norm.weight, w.embedding_norm.bias,
                     config_.norm_eps);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    const math::Arena::Mark mark = exec.arena().mark();
    const Tensor y = Layer(exec, batch, layer, lora, noise, x);
    if (exec.recorder() != nullptr) {
      x = y;
    } else {
      std::memcpy(x.data, y.data, y.bytes());
      exec.arena().Release(mark);
    }
  }
  return x;
}

// One layer, the norms behind the residual sums.
//   h = norm(x + O attention(Q x, K x, V x))   y = norm(h + D gelu(U h))
// x, h, y: [M,C].   U h: [M,F].
Tensor Encoder::Layer(Exec& exec, const EncoderBatch& batch, int64_t layer,
                      const Lora* lora, std::optional<uint64_t> noise,
                      const Tensor& x) const {
  const EncoderLayerWeights& w = weights_.layers[layer];
  const auto adapted = [&](EncoderMap which, const Tensor& in,
                           const Tensor& y) {
    return Adapted(exec, lora, noise, layer, which, in, y);
  };
  const auto map = [&](EncoderMap which, const Tensor& in) {
    return adapted(which, in, exec.Linear(in, w[which].weight));
  };
  // norm(a + (map + bias))
  const auto norm = [&](const NormWeights& weights, const Tensor& a,
                        EncoderMap which, const Tensor& in) {
    return exec.LayerNorm(map(which, in), w[which].bias, a, weights.weight,
                          weights.bias, config_.norm_eps);
  };
  math::HeadShape heads;
  heads.heads = heads.kv_heads = config_.heads;
  heads.head_dim = config_.head_dim();
  heads.causal = false;
  constexpr EncoderMap kInputs[] = {EncoderMap::kQuery, EncoderMap::kKey,
                                    EncoderMap::kValue};
  std::vector<std::pair<Tensor, Tensor>> products;
  for (const EncoderMap which : kInputs) {
    products.push_back({x, w[which].weight});
  }
  std::vector<Tensor> qkv = exec.Linears(products);
  for (size_t i = 0; i < qkv.size(); ++i) {
    qkv[i] = exec.AddBias(adapted(kInputs[i], x, qkv[i]), w[kInputs[i]].bias);
  }
  const Tensor a =
      exec.Attention(qkv[0], qkv[1], qkv[2], heads, batch.segments());
  const Tensor h = norm(w.attention_norm, x, EncoderMap::kAttentionOutput, a);
  const Tensor wide = exec.Gelu(map(EncoderMap::kIntermediate, h),
                                w[EncoderMap::kIntermediate].bias);
  return norm(w.output_norm, h, EncoderMap::kOutput, wide);
}

Tensor Encoder::Pool(Exec& exec, const EncoderBatch& batch,
                     const Tensor& hidden) const {
  const Tensor mean = exec.MeanPool(hidden, batch.segments());
  return normalise_ ? exec.Normalise(mean) : mean;
}

absl::Status Encoder::Encode(const math::Kernels& kernels,
                             math::Product product,
                             std::span<const EncoderInput> sequences,
                             const Lora* lora, float* out) const {
  for (const EncoderInput& s : sequences) MOTET_RETURN_IF_ERROR(CheckInput(s));
  if (lora != nullptr) MOTET_RETURN_IF_ERROR(CheckLora(config_, *lora));
  // Batches [starts[b], starts[b + 1]).
  std::vector<size_t> starts = {0};
  int64_t rows = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const auto own = static_cast<int64_t>(sequences[s].ids.size());
    if (s > starts.back() && rows + own > kBatchRows) {
      starts.push_back(s);
      rows = 0;
    }
    rows += own;
  }
  starts.push_back(sequences.size());
  const auto batches = static_cast<int64_t>(starts.size()) - 1;
  // Enough batches: a thread each, which then waits for nobody.
#pragma omp parallel if (batches >= 2 * math::Threads())
  {
    math::Arena arena;
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < batches; ++b) {
      const auto at = static_cast<size_t>(b);
      const EncoderBatch batch(
          sequences.subspan(starts[at], starts[at + 1] - starts[at]));
      Exec exec(kernels, arena, product);
      const Tensor y = Pool(exec, batch, Forward(exec, batch, lora));
      std::memcpy(out + static_cast<int64_t>(starts[at]) * config_.width,
                  y.data, y.bytes());
      arena.Reset();
    }
  }
  return absl::OkStatus();
}

}  // namespace motet::model
