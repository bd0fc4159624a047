// SPDX-License-Identifier: Apache-2.0
// The decoder's way from ids to logits, in the order of the figure; the
// expert FFN lies beside it in decoder_experts.cc, the checks before it in
// decoder_create.cc. Every step is row by row but attention and the anchored
// router's smoothing, which see the earlier rows of the same sequence: with
// exact products a row's bits depend on its sequence and expert set alone
// (docs/exclusion.md).
#include "compose/model/decoder.h"

#include <cstring>
#include <utility>

namespace motet::model {

using math::Exec;
using math::Segment;
using math::Tensor;

Batch::Batch(std::span<const SequenceInput> sequences)
    : sequences_(sequences.begin(), sequences.end()) {
  for (const SequenceInput& sequence : sequences_) {
    first_.push_back(rows());
    const int64_t past = sequence.cache ? sequence.cache->length() : 0;
    for (size_t i = 0; i < sequence.ids.size(); ++i) {
      ids_.push_back(sequence.ids[i]);
      positions_.push_back(static_cast<int32_t>(past + i));
      allowed_.push_back(sequence.allowed);
    }
  }
}

namespace {

// What only a programmer can get wrong: ids outside the table, a batch whose
// caches moved since it was made, a cache that is full, an empty expert set.
void CheckBatch(const ModelConfig& config, const Router& router,
                const Batch& batch) {
  for (int32_t id : batch.ids()) {
    MOTET_CHECK(id >= 0 && id < config.vocabulary);
  }
  for (size_t s = 0; s < batch.sequences().size(); ++s) {
    const SequenceInput& sequence = batch.sequences()[s];
    const int64_t rows = static_cast<int64_t>(sequence.ids.size());
    MOTET_CHECK(config.experts == 0 || router.base_always ||
                (sequence.allowed & math::FirstExperts(config.experts)) != 0);
    if (sequence.cache == nullptr || rows == 0) continue;
    MOTET_CHECK(batch.positions()[batch.first_row(s)] ==
                sequence.cache->length());
    MOTET_CHECK(sequence.cache->length() + rows <= sequence.cache->capacity());
  }
}

// Puts the new keys and values of cached sequences behind their past and
// says, for every sequence, which rows attend to what.
std::span<const Segment> Remember(Exec& exec, const Batch& batch, int64_t layer,
                                  const Tensor& k, const Tensor& v) {
  const auto sequences = batch.sequences();
  auto* segments = static_cast<Segment*>(exec.arena().Allocate(
      static_cast<int64_t>(sequences.size() * sizeof(Segment))));
  const int64_t width = k.cols();
  const math::DType dtype = exec.product() == math::Product::kBf16
                                ? math::DType::kBF16
                                : math::DType::kF32;
  for (size_t s = 0; s < sequences.size(); ++s) {
    Segment segment;
    segment.row = batch.first_row(s);
    segment.rows = static_cast<int64_t>(sequences[s].ids.size());
    if (SequenceCache* cache = sequences[s].cache; cache != nullptr) {
      segment.past = cache->length();
      cache->Write(layer, dtype, segment.rows, k.f32() + segment.row * width,
                   v.f32() + segment.row * width);
      segment.keys = cache->keys(layer);
      segment.values = cache->values(layer);
      segment.row_stride = width;
      segment.dtype = dtype;
    }
    segments[s] = segment;
  }
  return {segments, sequences.size()};
}

}  // namespace

// From ids to hidden states.
//   x = embed(ids);   x = layer_l(x), l = 0..L-1;   y = norm(x)
// y: [M,C].
Tensor Decoder::Forward(Exec& exec, const Batch& batch, Trace* trace) const {
  CheckBatch(config_, router_, batch);
  const bool visits = trace != nullptr && trace->visit;
  const auto clear = [trace] {
    if (trace != nullptr) *trace = Trace{std::move(trace->visit), {}, {}, {}, {}};
  };
  clear();
  const bool keep =
      (trace != nullptr && !visits) || exec.recorder() != nullptr;
  Tensor x = exec.Embed(batch.ids(), weights_.embed);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    if (trace != nullptr) trace->hidden.push_back(x);
    const math::Arena::Mark mark = exec.arena().mark();
    const Tensor y = exec.recomputes()
                         ? RecomputedLayer(exec, batch, layer, x, trace)
                         : Layer(exec, batch, layer, x, trace);
    if (visits) {
      trace->visit(layer);
      clear();
    }
    if (keep) {
      x = y;
    } else {
      std::memcpy(x.data, y.data, y.bytes());
      exec.arena().Release(mark);
    }
  }
  for (const SequenceInput& sequence : batch.sequences()) {
    if (sequence.cache == nullptr) continue;
    sequence.cache->Advance(static_cast<int64_t>(sequence.ids.size()));
  }
  x = exec.RmsNorm(x, weights_.final_norm, config_.norm_eps);
  if (trace != nullptr) trace->hidden.push_back(x);
  return x;
}

Tensor Decoder::Logits(Exec& exec, const Tensor& hidden) const {
  return exec.Linear(hidden, weights_.head);
}

// One block.
//   pre-norm:   h = x + attend(norm(x))   y = h + ffn(norm(h))   [Llama]
//   post-norm:  h = x + norm(attend(x))   y = h + norm(ffn(h))   [OLMo 2]
// The router reads what the FFN reads: norm(h), or h itself. x, y: [M,C].
Tensor Decoder::Layer(Exec& exec, const Batch& batch, int64_t layer,
                      const Tensor& x, Trace* trace) const {
  const LayerWeights& w = weights_.layers[layer];
  const auto norm = [&](const Tensor& t, const Tensor& weight) {
    return exec.RmsNorm(t, weight, config_.norm_eps);
  };
  if (config_.block == Block::kPreNorm) {
    const Tensor a = Attend(exec, batch, layer, norm(x, w.attention_norm));
    const Tensor h = exec.Add(x, a);
    const Tensor f =
        FeedForward(exec, batch, layer, norm(h, w.ffn_norm), trace);
    return exec.Add(h, f);
  }
  const Tensor a = Attend(exec, batch, layer, x);
  const Tensor h = exec.Add(x, norm(a, w.attention_norm));
  const Tensor f = FeedForward(exec, batch, layer, h, trace);
  return exec.Add(h, norm(f, w.ffn_norm));
}

// Layer, for a recorder that runs it again when its gradients are due and
// keeps no more than what it gives: y and the router's logits.
Tensor Decoder::RecomputedLayer(Exec& exec, const Batch& batch, int64_t layer,
                                const Tensor& x, Trace* trace) const {
  const std::vector<Tensor> results =
      exec.Recompute([this, &batch, layer, x](Exec& inner) {
        Trace own;
        const Tensor y = Layer(inner, batch, layer, x, &own);
        return std::vector<Tensor>{y, own.router_logits[0]};
      });
  if (trace != nullptr) {
    trace->router_input.emplace_back();
    trace->router_logits.push_back(results[1]);
    trace->routing.emplace_back();
  }
  return results[0];
}

namespace {

// RMSNorm of q or k [M,heads*D]: none, over the whole row, or head by head.
Tensor NormHeads(Exec& exec, const ModelConfig& config, const Tensor& x,
                 const Tensor& weight) {
  if (config.qk_norm == QkNorm::kNone) return x;
  if (config.qk_norm == QkNorm::kWhole) {
    return exec.RmsNorm(x, weight, config.norm_eps);
  }
  const Tensor heads =
      x.Reshaped({x.size() / config.head_dim, config.head_dim});
  return exec.RmsNorm(heads, weight, config.norm_eps).Reshaped(x.shape);
}

}  // namespace

// Causal self-attention, with grouped heads and, by family, a bias on q, k and
// v, RMSNorm of q and k, and a window of positions.
//   y = W_o attention(rope(norm(W_q x + b_q)), rope(norm(W_k x + b_k)),
//                     W_v x + b_v)
// x: [M,C].   q: [M,H*D].   k, v: [M,G*D].   y: [M,C].
Tensor Decoder::Attend(Exec& exec, const Batch& batch, int64_t layer,
                       const Tensor& x) const {
  const LayerWeights& w = weights_.layers[layer];
  const std::pair<Tensor, Tensor> inputs[] = {{x, w.q}, {x, w.k}, {x, w.v}};
  std::vector<Tensor> qkv = exec.Linears(inputs);
  Tensor q = qkv[0], k = qkv[1], v = qkv[2];
  if (config_.qkv_bias) {
    q = exec.AddBias(q, w.q_bias);
    k = exec.AddBias(k, w.k_bias);
    v = exec.AddBias(v, w.v_bias);
  }
  q = NormHeads(exec, config_, q, w.q_norm);
  k = NormHeads(exec, config_, k, w.k_norm);
  q = exec.Rope(q, batch.positions(), rope_frequencies_);
  k = exec.Rope(k, batch.positions(), rope_frequencies_);
  const std::span<const Segment> segments = Remember(exec, batch, layer, k, v);
  math::HeadShape heads = {config_.heads, config_.kv_heads, config_.head_dim};
  if (layer >= config_.window_from) heads.window = config_.window;
  return exec.Linear(exec.Attention(q, k, v, heads, segments), w.o);
}

}  // namespace motet::model
