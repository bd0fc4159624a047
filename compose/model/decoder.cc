// SPDX-License-Identifier: Apache-2.0
// The decoder's way from ids to logits, in the order of the figure; attention
// lies beside it in decoder_attention.cc, the expert FFN in decoder_experts.cc,
// the checks before it in decoder_create.cc. Every step is row by row but attention and the anchored
// router's smoothing, which see the earlier rows of the same sequence: with
// exact products a row's bits depend on its sequence and expert set alone
// (docs/exclusion.md).
#include "compose/model/decoder.h"

#include <cstring>
#include <utility>

namespace motet::model {

using math::Exec;
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

}  // namespace

// From ids to hidden states.
//   x = embed(ids);   x = layer_l(x), l = 0..L-1;   y = norm(x)
// y: [M,C].
Tensor Decoder::Forward(Exec& exec, const Batch& batch, Trace* trace) const {
  CheckBatch(config_, router_, batch);
  const bool visits = trace != nullptr && trace->visit;
  const auto clear = [trace] {
    if (trace == nullptr) return;
    *trace = Trace{std::move(trace->visit), {}, {}, {}, {}, {}};
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
//   pre-norm:   h = x + attend(norm(x))   y = h + ffn(norm(h))    [Llama]
//   post-norm:  h = x + norm(attend(x))   y = h + norm(ffn(h))    [OLMo 2]
//   parallel:   h = norm(x)   y = x + attend(h) + ffn(h)          [BAM 3.1]
// The router reads what the FFN reads: norm(h), or h itself. x, y: [M,C].
Tensor Decoder::Layer(Exec& exec, const Batch& batch, int64_t layer,
                      const Tensor& x, Trace* trace) const {
  const LayerWeights& w = weights_.layers[layer];
  const auto norm = [&](const Tensor& t, const Tensor& weight) {
    return exec.RmsNorm(t, weight, config_.norm_eps);
  };
  if (config_.block == Block::kPreNorm) {
    const Tensor a =
        Attend(exec, batch, layer, norm(x, w.attention_norm), trace);
    const Tensor h = exec.Add(x, a);
    const Tensor f =
        FeedForward(exec, batch, layer, norm(h, w.ffn_norm), trace);
    return exec.Add(h, f);
  }
  if (config_.block == Block::kParallel) {
    const Tensor h = norm(x, w.attention_norm);
    const Tensor a = Attend(exec, batch, layer, h, trace);
    return exec.Add(exec.Add(x, a), FeedForward(exec, batch, layer, h, trace));
  }
  const Tensor a = Attend(exec, batch, layer, x, trace);
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
    if (config_.attention_experts != AttentionExperts::kNone) {
      trace->attention.emplace_back();
    }
  }
  return results[0];
}

}  // namespace motet::model
