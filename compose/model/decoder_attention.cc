// SPDX-License-Identifier: Apache-2.0
// The attention of a layer: one, or experts behind a router that every token
// uses at once [METHODS 3; BAM, arXiv 2408.08274]. An expert sees the rows of
// the sequences whose set it is in and no others: outside the set nothing of
// it is computed and it has no keys and values.
#include <span>
#include <utility>
#include <vector>

#include "compose/model/decoder.h"

namespace motet::model {

using math::Exec;
using math::ExpertRows;
using math::Routing;
using math::Segment;
using math::Tensor;

namespace {

template <typename T>
std::span<T> Make(Exec& exec, size_t count) {
  const auto bytes = static_cast<int64_t>(count * sizeof(T));
  return {static_cast<T*>(exec.arena().Allocate(bytes)), count};
}

// Some of a batch's sequences, their rows after one another. What is viewed
// lies in the batch or the arena: a backward pass reads it after we are gone.
struct Part {
  std::vector<size_t> sequences;
  std::span<const int32_t> positions;
  bool all = true;                // of the batch's rows
  std::span<const int32_t> rows;  // of the batch; Whole leaves it empty
};

Part Whole(const Batch& batch) {
  Part part;
  for (size_t s = 0; s < batch.sequences().size(); ++s) {
    part.sequences.push_back(s);
  }
  part.positions = batch.positions();
  return part;
}

// The sequences whose set has the expert.
Part PartOf(Exec& exec, const Batch& batch,
            std::span<const math::ExpertMask> sets, int64_t expert) {
  Part part;
  size_t count = 0;
  for (size_t s = 0; s < sets.size(); ++s) {
    if ((sets[s] >> expert & 1) == 0) continue;
    part.sequences.push_back(s);
    count += batch.sequences()[s].ids.size();
  }
  part.all = static_cast<int64_t>(count) == batch.rows();
  const std::span<int32_t> rows = Make<int32_t>(exec, count);
  const std::span<int32_t> positions = Make<int32_t>(exec, count);
  size_t i = 0;
  for (const size_t s : part.sequences) {
    const int64_t first = batch.first_row(s);
    for (size_t t = 0; t < batch.sequences()[s].ids.size(); ++t, ++i) {
      rows[i] = static_cast<int32_t>(first + static_cast<int64_t>(t));
      positions[i] = batch.positions()[rows[i]];
    }
  }
  part.rows = rows;
  part.positions = positions;
  return part;
}

Tensor RowsOf(Exec& exec, const Part& part, const Tensor& x) {
  return part.all ? x : exec.Gather(x, part.rows);
}

// Puts the part's new keys and values behind the past of those sequences that
// have a cache. k, v: [part's rows, G*D].
void Remember(Exec& exec, const Batch& batch, const Part& part, int64_t layer,
              int64_t attention, const Tensor& k, const Tensor& v) {
  const math::DType dtype = exec.product() == math::Product::kBf16
                                ? math::DType::kBF16
                                : math::DType::kF32;
  const int64_t width = k.cols();
  int64_t row = 0;
  for (const size_t s : part.sequences) {
    const SequenceInput& sequence = batch.sequences()[s];
    const auto rows = static_cast<int64_t>(sequence.ids.size());
    if (sequence.cache != nullptr) {
      sequence.cache->Write(layer, attention, dtype, rows,
                            k.f32() + row * width, v.f32() + row * width);
    }
    row += rows;
  }
}

// Which of the part's rows attend to what, for every sequence. width: G*D.
std::span<const Segment> Segments(Exec& exec, const Batch& batch,
                                  const Part& part, int64_t layer,
                                  int64_t attention, int64_t width) {
  const std::span<Segment> segments =
      Make<Segment>(exec, part.sequences.size());
  int64_t row = 0;
  for (size_t i = 0; i < part.sequences.size(); ++i) {
    const SequenceInput& sequence = batch.sequences()[part.sequences[i]];
    Segment segment;
    segment.row = row;
    segment.rows = static_cast<int64_t>(sequence.ids.size());
    if (const SequenceCache* cache = sequence.cache; cache != nullptr) {
      segment.past = cache->length();
      segment.keys = cache->keys(layer, attention);
      segment.values = cache->values(layer, attention);
      segment.row_stride = width;
      segment.dtype = cache->dtype();
    }
    segments[i] = segment;
    row += segment.rows;
  }
  return segments;
}

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

// rope(norm(x + b)) of projected q or k.
Tensor Turned(Exec& exec, const ModelConfig& config, const Tensor& x,
              const Tensor& bias, const Tensor& norm,
              std::span<const int32_t> positions,
              std::span<const double> frequencies) {
  const Tensor moved = config.qkv_bias ? exec.AddBias(x, bias) : x;
  return exec.Rope(NormHeads(exec, config, moved, norm), positions,
                   frequencies);
}

// An expert that runs, on which rows, and as which of their choices.
struct Running {
  int64_t expert;
  Part part;
  std::span<const int32_t> slots;
};

std::vector<Running> WhoRuns(Exec& exec, const Batch& batch,
                             std::span<const math::ExpertMask> sets,
                             const Routing& gates) {
  const int64_t experts = gates.idx.cols();
  // [E,M]: the column of gates that is the expert's.
  std::vector<int32_t> column(static_cast<size_t>(gates.idx.size()));
  for (int64_t i = 0; i < gates.idx.size(); ++i) {
    const int32_t e = gates.idx.i32()[i];
    if (e < 0) continue;
    column[e * batch.rows() + i / experts] = static_cast<int32_t>(i % experts);
  }
  std::vector<Running> running;
  for (int64_t e = 0; e < experts; ++e) {
    Part part = PartOf(exec, batch, sets, e);
    if (part.rows.empty()) continue;
    const std::span<int32_t> slots = Make<int32_t>(exec, part.rows.size());
    for (size_t i = 0; i < slots.size(); ++i) {
      slots[i] = column[e * batch.rows() + part.rows[i]];
    }
    running.push_back({e, std::move(part), slots});
  }
  return running;
}

}  // namespace

math::HeadShape Decoder::Heads(int64_t layer) const {
  math::HeadShape heads = {config_.heads, config_.kv_heads, config_.head_dim};
  if (layer >= config_.window_from) heads.window = config_.window;
  return heads;
}

// Causal self-attention, with grouped heads and, by family, a bias on q, k and
// v, RMSNorm of q and k, and a window of positions.
//   y = W_o attention(rope(norm(W_q x + b_q)), rope(norm(W_k x + b_k)),
//                     W_v x + b_v)
// x: [M,C].   q: [M,H*D].   k, v: [M,G*D].   y: [M,C].
Tensor Decoder::Attend(Exec& exec, const Batch& batch, int64_t layer,
                       const Tensor& x, Trace* trace) const {
  if (config_.attention_experts != AttentionExperts::kNone) {
    return AttendExperts(exec, batch, layer, x, trace);
  }
  const LayerWeights& w = weights_.layers[layer];
  const std::pair<Tensor, Tensor> inputs[] = {{x, w.q}, {x, w.k}, {x, w.v}};
  const std::vector<Tensor> qkv = exec.Linears(inputs);
  const auto turned = [&](const Tensor& t, const Tensor& bias,
                          const Tensor& norm) {
    return Turned(exec, config_, t, bias, norm, batch.positions(),
                  rope_frequencies_);
  };
  const Tensor q = turned(qkv[0], w.q_bias, w.q_norm);
  const Tensor k = turned(qkv[1], w.k_bias, w.k_norm);
  const Tensor v = config_.qkv_bias ? exec.AddBias(qkv[2], w.v_bias) : qkv[2];
  const Part whole = Whole(batch);
  Remember(exec, batch, whole, layer, 0, k, v);
  const std::span<const Segment> segments =
      Segments(exec, batch, whole, layer, 0, k.cols());
  return exec.Linear(exec.Attention(q, k, v, Heads(layer), segments), w.o);
}

// The soft choice among attention experts, for every row over its set.
//   g = softmax over allowed of W_g x                               [BAM 3.2]
// x: [M,C].   idx, w: [M,E].
Routing Decoder::AttentionGates(Exec& exec, const Batch& batch, int64_t layer,
                                const Tensor& x,
                                std::span<const math::ExpertMask> sets) const {
  const std::span<math::ExpertMask> allowed =
      Make<math::ExpertMask>(exec, static_cast<size_t>(batch.rows()));
  size_t m = 0;
  for (size_t s = 0; s < sets.size(); ++s) {
    for (size_t t = batch.sequences()[s].ids.size(); t > 0; --t) {
      allowed[m++] = sets[s];
    }
  }
  const Tensor logits = exec.Linear(x, weights_.layers[layer].attention_router);
  return exec.TopK(logits, {allowed, {}}, static_cast<int>(config_.experts),
                   false);
}

// Attention experts, each as Attend, mixed by their gates.
//   y = sum_j ascending g_j W_o,j attention(q_j, k_j, v_j)        [METHODS 3]
// Own KV: k_j, v_j by matrices of its own. Shared KV: the layer's k and v.
// x, y: [M,C].   q_j, k_j, v_j: the rows of the sequences that may use j.
Tensor Decoder::AttendExperts(Exec& exec, const Batch& batch, int64_t layer,
                              const Tensor& x, Trace* trace) const {
  const LayerWeights& w = weights_.layers[layer];
  const bool shared = config_.attention_experts == AttentionExperts::kSharedKv;
  std::vector<math::ExpertMask> sets;
  for (const SequenceInput& s : batch.sequences()) sets.push_back(SetOf(s));
  const Routing gates = AttentionGates(exec, batch, layer, x, sets);
  if (trace != nullptr) trace->attention.push_back(gates);
  const std::vector<Running> running = WhoRuns(exec, batch, sets, gates);

  // All projections at once: the layer's k and v, then each expert's.
  std::vector<std::pair<Tensor, Tensor>> products;
  if (shared) products = {{x, w.k}, {x, w.v}};
  for (const Running& r : running) {
    const AttentionWeights& own = w.attention_experts[r.expert];
    const Tensor rows = RowsOf(exec, r.part, x);
    products.push_back({rows, own.q});
    if (shared) continue;
    products.push_back({rows, own.k});
    products.push_back({rows, own.v});
  }
  const std::vector<Tensor> projected = exec.Linears(products);
  auto next = projected.begin();
  const auto query_or_key = [&](const Part& part, const Tensor& bias,
                                const Tensor& norm) {
    return Turned(exec, config_, *next++, bias, norm, part.positions,
                  rope_frequencies_);
  };
  const auto value = [&](const Tensor& bias) {
    const Tensor v = *next++;
    return config_.qkv_bias ? exec.AddBias(v, bias) : v;
  };

  Tensor k, v;
  if (shared) {
    const Part whole = Whole(batch);
    k = query_or_key(whole, w.k_bias, w.k_norm);
    v = value(w.v_bias);
    Remember(exec, batch, whole, layer, 0, k, v);
  }
  products.clear();
  for (const Running& r : running) {
    const AttentionWeights& own = w.attention_experts[r.expert];
    const int64_t attention = shared ? 0 : r.expert;
    const Tensor q = query_or_key(r.part, own.q_bias, own.q_norm);
    Tensor own_k, own_v;
    if (shared) {
      own_k = RowsOf(exec, r.part, k);
      own_v = RowsOf(exec, r.part, v);
    } else {
      own_k = query_or_key(r.part, own.k_bias, own.k_norm);
      own_v = value(own.v_bias);
      Remember(exec, batch, r.part, layer, attention, own_k, own_v);
    }
    products.push_back({exec.Attention(q, own_k, own_v, Heads(layer),
                                       Segments(exec, batch, r.part, layer,
                                                attention, own_k.cols())),
                        own.o});
  }
  const std::vector<Tensor> outputs = exec.Linears(products);
  std::vector<ExpertRows> mixed;
  for (size_t i = 0; i < running.size(); ++i) {
    mixed.push_back(
        {running[i].part.rows, running[i].slots, outputs[i], Tensor{}});
  }
  return exec.Combine(gates, std::move(mixed), x.rows(), x.cols());
}

}  // namespace motet::model
