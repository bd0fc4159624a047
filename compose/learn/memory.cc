// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/memory.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "compose/learn/tape.h"

namespace motet::learn {
namespace {

using math::Tensor;

// Every tensor once, also where two names view one.
class Sum {
 public:
  void Add(const Tensor& t) {
    if (!t.empty() && seen_.insert(t.data).second) bytes_ += t.bytes();
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::set<const void*> seen_;
  int64_t bytes_ = 0;
};

int64_t WeightBytes(const model::Decoder& decoder) {
  Sum sum;
  model::ModelWeights views = decoder.weights();
  VisitWeights(decoder.config(), views,
               [&](const std::string&, const math::Shape&, Tensor& t) {
                 sum.Add(t);
               });
  for (const model::LayerWeights& layer : views.layers) {
    sum.Add(layer.owner_bias);
  }
  return sum.bytes();
}

// The library multiplies f32; one matrix at a time is widened for it.
int64_t WidenedBytes(const model::Decoder& decoder) {
  int64_t largest = 0;
  model::ModelWeights views = decoder.weights();
  VisitWeights(decoder.config(), views,
               [&](const std::string&, const math::Shape&, Tensor& t) {
                 if (t.dtype == math::DType::kF32) return;
                 largest = std::max(
                     largest, t.size() * math::ByteSize(math::DType::kF32));
               });
  return largest;
}

int64_t TrainedBytes(const std::vector<Parameter>& parameters) {
  Sum gradients, moments;
  for (const Parameter& p : parameters) {
    gradients.Add(p.watched);
    moments.Add(p.value);
  }
  return gradients.bytes() + 2 * moments.bytes();
}

}  // namespace

std::string StepMemory::ToString() const {
  const auto mib = [](int64_t bytes) {
    return absl::StrCat((bytes + (1 << 19)) >> 20, " MiB");
  };
  return absl::StrCat("weights ", mib(weights), ", gradients and moments ",
                      mib(trained), ", activations ", mib(activations));
}

StepMemory PlanStep(const model::Decoder& decoder,
                    const std::vector<Parameter>& parameters,
                    const StepOptions& options, int64_t sequences,
                    int64_t tokens) {
  StepMemory memory;
  memory.weights = WeightBytes(decoder);
  memory.trained = TrainedBytes(parameters);
  // One token's id stands for all.
  const std::vector<int32_t> ids(static_cast<size_t>(tokens));
  const std::vector<std::span<const int32_t>> batch(
      static_cast<size_t>(sequences), ids);
  math::Arena results(kStepArenaBlock), gradients(kStepArenaBlock);
  Tape tape(gradients, Tape::Mode::kCounts);
  for (const Parameter& p : parameters) tape.Watch(p.watched);
  BalanceTotals totals;
  for (Sequences piece : Pieces(batch, options.accumulation)) {
    RunPiece(decoder, math::Counting(), piece, CountsOf(batch), options,
             results, gradients, tape, totals);
  }
  memory.activations = results.peak_bytes() + gradients.peak_bytes();
  if (options.product == math::Product::kLibrary) {
    memory.activations += WidenedBytes(decoder);
  }
  return memory;
}

int64_t LayersToRecompute(const model::Decoder& decoder,
                          const std::vector<Parameter>& parameters,
                          StepOptions options, int64_t sequences,
                          int64_t tokens, int64_t bytes) {
  const int64_t layers = decoder.config().layers;
  const auto fits = [&](int64_t recomputed) {
    options.recompute_layers = recomputed;
    return PlanStep(decoder, parameters, options, sequences, tokens).total() <=
           bytes;
  };
  // A layer that runs again does so on top of what the others keep: one may
  // take more than none; from one on, more layers take less.
  if (fits(0)) return 0;
  int64_t low = 1, high = layers;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (fits(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace motet::learn
