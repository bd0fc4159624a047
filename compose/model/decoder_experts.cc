// SPDX-License-Identifier: Apache-2.0
// The FFN of a layer: dense, or experts behind a router. Enters the router's
// input, leaves the mixed output. Rows are grouped by expert; an expert that
// no row chose is not run, and since an FFN works row by row, which rows
// stand beside a row in its group cannot matter.
#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <vector>

#include "compose/model/decoder.h"

namespace motet::model {
namespace {

using math::Exec;
using math::ExpertRows;
using math::RouteSegment;
using math::Routing;
using math::Tensor;

// One FFN and its rows.
struct FfnInput {
  const FfnWeights* weights;
  Tensor x;
};

// y = W_down swiglu(W_gate x, W_up x) of each; their products run together.
// x, y: [m,C].
std::vector<Tensor> Ffns(Exec& exec, std::span<const FfnInput> inputs) {
  std::vector<std::pair<Tensor, Tensor>> products;
  for (const FfnInput& input : inputs) {
    products.push_back({input.x, input.weights->gate});
    products.push_back({input.x, input.weights->up});
  }
  const std::vector<Tensor> wide = exec.Linears(products);
  products.clear();
  for (size_t i = 0; i < inputs.size(); ++i) {
    products.push_back({exec.SwiGlu(wide[2 * i], wide[2 * i + 1]),
                        inputs[i].weights->down});
  }
  return exec.Linears(products);
}

// Which rows chose an expert, ascending, and as which of their choices.
struct Group {
  std::span<int32_t> rows;
  std::span<int32_t> slots;
};

std::vector<Group> GroupByExpert(Exec& exec, const Tensor& idx,
                                 size_t experts) {
  const int64_t rows = idx.rows(), choices = idx.cols();
  std::vector<size_t> count(experts);
  for (int64_t i = 0; i < idx.size(); ++i) {
    if (idx.i32()[i] >= 0) ++count[idx.i32()[i]];
  }
  // In the arena: a backward pass reads them after we are gone.
  const auto span = [&](size_t n) {
    const int64_t bytes = static_cast<int64_t>(n * sizeof(int32_t));
    return std::span<int32_t>(
        static_cast<int32_t*>(exec.arena().Allocate(bytes)), n);
  };
  std::vector<Group> groups(experts);
  for (size_t e = 0; e < experts; ++e) {
    groups[e] = {span(count[e]), span(count[e])};
  }
  std::vector<size_t> next(experts);
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t slot = 0; slot < choices; ++slot) {
      const int32_t e = idx.i32()[m * choices + slot];
      if (e < 0) continue;
      groups[e].rows[next[e]] = static_cast<int32_t>(m);
      groups[e].slots[next[e]++] = static_cast<int32_t>(slot);
    }
  }
  return groups;
}

// y[m] = sum over m's experts, ascending, of w[m,slot] FFN_e(x[m]).
Tensor RunExperts(Exec& exec, const std::vector<FfnWeights>& experts,
                  const Routing& routing, const Tensor& x) {
  std::vector<FfnInput> inputs;
  std::vector<ExpertRows> outputs;
  const std::vector<Group> groups =
      GroupByExpert(exec, routing.idx, experts.size());
  for (size_t e = 0; e < experts.size(); ++e) {
    const Group& group = groups[e];
    if (group.rows.empty()) continue;
    // A row chooses an expert once, so as many rows as there are means all of
    // them in order: no copy.
    const bool all = static_cast<int64_t>(group.rows.size()) == x.rows();
    inputs.push_back({&experts[e], all ? x : exec.Gather(x, group.rows)});
    outputs.push_back({group.rows, group.slots, Tensor{}, Tensor{}});
  }
  const std::vector<Tensor> results = Ffns(exec, inputs);
  for (size_t i = 0; i < results.size(); ++i) outputs[i].f = results[i];
  return exec.Combine(routing, std::move(outputs), x.rows(), x.cols());
}

}  // namespace

// What every row's choice is bound by, and in *most the choices of the row
// that has the most. A row's own numbers do not depend on the others': the
// columns that it leaves are empty.
math::RowLimits Decoder::Limits(Exec& exec, const Batch& batch,
                                int64_t* most) const {
  const bool top_k = router_.kind == Router::Kind::kTopK;
  const int64_t experts = config_.experts;
  const int64_t own =
      top_k ? std::min(router_.k, experts + router_.null_experts) : experts;
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
        std::min(sequence.active > 0 ? sequence.active : own,
                 experts + (top_k ? router_.null_experts : 0));
    if (!sequence.ids.empty()) *most = std::max(*most, count);
    for (size_t i = 0; i < sequence.ids.size(); ++i, ++m) {
      masks[m] = sequence.allowed | (router_.base_always ? 1 : 0);
      active[m] = static_cast<int32_t>(count);
    }
  }
  return {{masks, rows}, {active, rows}};
}

// The choice of experts for every row.
//   top-k:     (idx, w) = top k of softmax over allowed of W_r x + min(b, 0)
//   top-p:     as many of the same as reach the weight p
//   anchored:  (base, best allowed expert) by the smoothed discriminant
//                                [FlexOlmo 3.2, 3.3; METHODS 10 and 11]
// x: [M,C].   logits: [M,E], left empty by the anchored kind.
Routing Decoder::Route(Exec& exec, const Batch& batch, int64_t layer,
                       const Tensor& x, Tensor* logits) const {
  if (router_.kind == Router::Kind::kAnchored) {
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
    return exec.AnchoredRoute(x, router_.anchored[layer], segments);
  }
  const LayerWeights& w = weights_.layers[layer];
  *logits = exec.Linear(x, w.router);
  if (!w.owner_bias.empty()) *logits = exec.OwnerBias(*logits, w.owner_bias);
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
                             : Ffns(exec, std::array{FfnInput{&experts[0], x}})[0];
}

}  // namespace motet::model
