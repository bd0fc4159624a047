// SPDX-License-Identifier: Apache-2.0
// The FFN of a layer: dense, or experts behind a router. Enters the router's
// input, leaves the mixed output. What the router decides for a row depends on
// the row and its sequence alone; how experts run is in mixture.cc.
#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "compose/model/decoder.h"
#include "compose/model/mixture.h"

namespace motet::model {

using math::Exec;
using math::RouteSegment;
using math::Routing;
using math::Tensor;

namespace {

// From a set of experts to that of their chunks.
math::ExpertMask Spread(math::ExpertMask set, int64_t chunks) {
  if (chunks == 1) return set;
  const math::ExpertMask all = math::FirstExperts(chunks);
  math::ExpertMask spread = 0;
  for (int64_t e = 0; e * chunks < math::kMaxExperts; ++e) {
    if ((set >> e & 1) != 0) spread |= all << (e * chunks);
  }
  return spread;
}

}  // namespace

math::ExpertMask Decoder::SetOf(const SequenceInput& sequence) const {
  return (sequence.allowed | (router_.base_always ? 1 : 0)) &
         math::FirstExperts(config_.experts / router_.chunks);
}

// W_r x; where rows are made for a set, each sequence's by those of its own.
// x: [M,C] -> [M,E].
Tensor Decoder::RouterLogits(Exec& exec, const Batch& batch, int64_t layer,
                             const Tensor& x) const {
  if (router_.rows == nullptr) {
    return exec.Linear(x, weights_.layers[layer].router);
  }
  MOTET_CHECK(exec.recorder() == nullptr);
  const Tensor logits = exec.arena().New({x.rows(), config_.experts});
  const auto sequences = batch.sequences();
  for (size_t s = 0; s < sequences.size();) {
    const math::ExpertMask set = SetOf(sequences[s]);
    const int64_t row = batch.first_row(s);
    int64_t rows = 0;
    for (; s < sequences.size() && SetOf(sequences[s]) == set; ++s) {
      rows += static_cast<int64_t>(sequences[s].ids.size());
    }
    if (rows == 0) continue;
    const auto made = router_.rows->For(set);
    const Tensor part =
        exec.Linear(x.RowSlice(row, rows), made->rows[layer]);
    std::memcpy(logits.RowSlice(row, rows).data, part.data, part.bytes());
  }
  return logits;
}

// What every row's choice is bound by, and in *most the choices of the row
// that has the most, shared ones included. A row's own numbers do not depend
// on the others': the columns that it leaves are empty.
math::RowLimits Decoder::Limits(Exec& exec, const Batch& batch,
                                int64_t* most) const {
  const bool top_k = router_.kind == Router::Kind::kTopK;
  const math::ExpertMask shared = SharedFfns(router_);
  const int64_t others = config_.experts - math::CountExperts(shared);
  // Nulls count as choices. One at least: a row may find none to take.
  const int64_t all =
      std::max<int64_t>(1, others + (top_k ? router_.null_experts : 0));
  int64_t own = all;
  if (top_k) {
    own = std::min(router_.k, all);
  } else if (router_.most_active > 0) {
    own = std::min(router_.most_active, all);
  }
  // In the arena: a backward pass reads them after we are gone.
  const auto rows = static_cast<size_t>(batch.rows());
  auto* masks = static_cast<math::ExpertMask*>(exec.arena().Allocate(
      static_cast<int64_t>(rows * sizeof(math::ExpertMask))));
  auto* active = static_cast<int32_t*>(exec.arena().Allocate(
      static_cast<int64_t>(rows * sizeof(int32_t))));
  *most = 1;
  size_t m = 0;
  for (const SequenceInput& sequence : batch.sequences()) {
    const int64_t count =
        sequence.active > 0 ? std::min<int64_t>(sequence.active, all) : own;
    const math::ExpertMask mask = Spread(
        sequence.allowed | (router_.base_always ? 1 : 0), router_.chunks);
    if (!sequence.ids.empty()) *most = std::max(*most, count);
    for (size_t i = 0; i < sequence.ids.size(); ++i, ++m) {
      masks[m] = mask;
      active[m] = static_cast<int32_t>(count);
    }
  }
  *most += math::CountExperts(shared);
  return {{masks, rows}, {active, rows}, shared};
}

// Sequences of one set at a time where the selection is made for a set.
Routing Decoder::Anchored(Exec& exec, const Batch& batch, int64_t layer,
                          const Tensor& x) const {
  const auto sequences = batch.sequences();
  std::vector<RouteSegment> segments;
  for (size_t s = 0; s < sequences.size(); ++s) {
    RouteSegment segment;
    segment.row = batch.first_row(s);
    segment.rows = static_cast<int64_t>(sequences[s].ids.size());
    segment.allowed = sequences[s].allowed | 1;
    if (sequences[s].cache != nullptr) {
      segment.state = sequences[s].cache->anchored(layer);
      segment.past = sequences[s].cache->length();
    }
    segments.push_back(segment);
  }
  if (router_.rows == nullptr) {
    return exec.AnchoredRoute(x, router_.anchored[layer], segments);
  }
  Routing all;
  all.idx = exec.arena().New({x.rows(), 2}, math::DType::kI32);
  all.w = exec.arena().New({x.rows(), 2});
  for (size_t s = 0; s < sequences.size();) {
    const math::ExpertMask set = SetOf(sequences[s]);
    const size_t first = s;
    const int64_t row = batch.first_row(s);
    int64_t rows = 0;
    for (; s < sequences.size() && SetOf(sequences[s]) == set; ++s) {
      segments[s].row -= row;
      rows += segments[s].rows;
    }
    if (rows == 0) continue;
    const auto made = router_.rows->For(set);
    math::AnchoredLayer own = router_.anchored[layer];
    own.select = made->rows[layer];
    own.offset = made->offsets[layer];
    const Routing part = exec.AnchoredRoute(
        x.RowSlice(row, rows), own,
        std::span(segments).subspan(first, s - first));
    std::memcpy(all.idx.RowSlice(row, rows).data, part.idx.data,
                part.idx.bytes());
    std::memcpy(all.w.RowSlice(row, rows).data, part.w.data, part.w.bytes());
  }
  return all;
}

// The choice of experts for every row.
//   top-k:     (idx, w) = top k of softmax over allowed of W_r x + min(b, 0),
//              a shared base beside them
//   top-p:     as many of the same as reach the weight p
//   anchored:  (base, best allowed expert) by the smoothed discriminant
//                                [FlexOlmo 3.2, 3.3; METHODS 10 and 11]
// x: [M,C].   logits: [M,E], left empty by the anchored kind.
Routing Decoder::Route(Exec& exec, const Batch& batch, int64_t layer,
                       const Tensor& x, Tensor* logits) const {
  if (router_.kind == Router::Kind::kAnchored) {
    return Anchored(exec, batch, layer, x);
  }
  const LayerWeights& w = weights_.layers[layer];
  *logits = RouterLogits(exec, batch, layer, x);
  if (!w.owner_bias.empty()) *logits = exec.OwnerBias(*logits, w.owner_bias);
  if (router_.training != nullptr) {
    BtxRouter how = *router_.training;
    how.seed += 0x9e3779b97f4a7c15u * static_cast<uint64_t>(layer + 1);
    return RouteBtx(exec, how, *logits);
  }
  int64_t most = 0;
  const math::RowLimits limits = Limits(exec, batch, &most);
  if (router_.kind == Router::Kind::kTopP) {
    return exec.TopP(*logits, limits, router_.top_p, static_cast<int>(most),
                     router_.renormalise);
  }
  if (router_.null_experts > 0) {
    const Tensor nulls =
        exec.arena().Zeros({x.rows(), router_.null_experts});
    return exec.NullTopK(*logits, nulls, limits, static_cast<int>(most));
  }
  return exec.TopK(*logits, limits, static_cast<int>(most),
                   router_.renormalise);
}

Tensor Decoder::FeedForward(Exec& exec, const Batch& batch, int64_t layer,
                            const Tensor& x, Trace* trace) const {
  const std::vector<FfnWeights>& experts = weights_.layers[layer].experts;
  Tensor logits;
  Routing routing;
  if (config_.experts > 0) routing = Route(exec, batch, layer, x, &logits);
  if (trace != nullptr) {
    trace->router_input.push_back(x);
    trace->router_logits.push_back(logits);
    trace->routing.push_back(routing);
  }
  return config_.experts > 0 ? RunExperts(exec, experts, routing, x)
                             : RunFfn(exec, experts[0], x);
}

}  // namespace motet::model
