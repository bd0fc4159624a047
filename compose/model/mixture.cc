// SPDX-License-Identifier: Apache-2.0
// Rows are grouped by expert. Since an FFN works row by row, which rows stand
// beside a row in its group cannot matter.
#include "compose/model/mixture.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <span>
#include <utility>

namespace motet::model {
namespace {

using math::Exec;
using math::ExpertRows;
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

// Gumbel noise over the temperature, -log(-log u) / t.
Tensor Gumbel(Exec& exec, const math::Shape& shape, const BtxRouter& router) {
  Tensor noise = exec.arena().New(shape);
  std::mt19937_64 random(router.seed);
  for (int64_t i = 0; i < noise.size(); ++i) {
    // In (0, 1): 53 bits, half a step from either end.
    const double u =
        (static_cast<double>(random() >> 11) + 0.5) * 0x1.0p-53;
    noise.f32()[i] =
        static_cast<float>(-std::log(-std::log(u)) / router.temperature);
  }
  return noise;
}

}  // namespace

Tensor RunFfn(Exec& exec, const FfnWeights& ffn, const Tensor& x) {
  return Ffns(exec, std::array{FfnInput{&ffn, x}})[0];
}

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

//   top-k    g = softmax(top k of x)                      [BTX 3.2]
//   switch   g = softmax(x)_i, i = argmax; first c rows    [2101.03961]
//   soft     g = softmax(x)
//   sample   g = softmax((x + G) / t)_i, i = argmax, G ~ Gumbel
Routing RouteBtx(Exec& exec, const BtxRouter& router, const Tensor& logits) {
  const int64_t rows = logits.rows(), experts = logits.cols();
  switch (router.kind) {
    case BtxRouter::Kind::kSwitch: {
      const auto capacity = static_cast<int64_t>(
          std::ceil(router.capacity_factor * static_cast<double>(rows) /
                    static_cast<double>(experts)));
      return exec.Capacity(exec.TopK(logits, {}, 1, false), capacity);
    }
    case BtxRouter::Kind::kSoft:
      return exec.TopK(logits, {}, static_cast<int>(experts), false);
    case BtxRouter::Kind::kSample: {
      const Tensor noisy = exec.AddScaled(
          Gumbel(exec, logits.shape, router),
          static_cast<float>(1 / router.temperature), logits);
      return exec.TopK(noisy, {}, 1, false);
    }
    case BtxRouter::Kind::kTopK:
      break;
  }
  return exec.TopK(logits, {},
                   static_cast<int>(std::min(router.k, experts)), true);
}

std::vector<FfnWeights> SplitFfn(math::Arena& arena, const FfnWeights& ffn,
                                 int64_t chunks) {
  const int64_t width = ffn.down.rows(), all = ffn.down.cols();
  MOTET_CHECK(chunks > 0 && all % chunks == 0);
  const int64_t own = all / chunks;
  const int64_t element = math::ByteSize(ffn.down.dtype);
  std::vector<FfnWeights> parts;
  for (int64_t c = 0; c < chunks; ++c) {
    FfnWeights part;
    part.gate = ffn.gate.RowSlice(c * own, own);
    part.up = ffn.up.RowSlice(c * own, own);
    part.down = arena.New({width, own}, ffn.down.dtype);
    for (int64_t r = 0; r < width; ++r) {
      std::memcpy(static_cast<char*>(part.down.data) + r * own * element,
                  static_cast<const char*>(ffn.down.data) +
                      (r * all + c * own) * element,
                  own * element);
    }
    parts.push_back(part);
  }
  return parts;
}

}  // namespace motet::model
