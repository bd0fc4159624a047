// SPDX-License-Identifier: Apache-2.0
// How model code calls operators: allocate, run the kernel, and — when a
// recorder is there — note how to run it backwards. With recorder == nullptr
// the same code serves. One Exec is used by one thread; it is cheap.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "compose/math/arena.h"
#include "compose/math/operators.h"

namespace motet::math {

// What a tape offers (compose/learn/tape.h). Tensors are known by their data
// pointer.
class Recorder {
 public:
  virtual ~Recorder() = default;
  // True when a gradient must reach t: a trained parameter or a result that
  // depends on one.
  virtual bool Needs(const Tensor& t) const = 0;
  // Marks a result as depending on trained parameters.
  virtual void MarkNeeded(const Tensor& t) = 0;
  // The gradient of t, zeros when first asked for; an empty tensor when
  // nothing needs it.
  virtual Tensor Gradient(const Tensor& t) = 0;
  // The same for an operator that adds to every number of t's gradient and
  // knows Tensor::fresh: saves clearing what is written next.
  virtual Tensor FirstGradient(const Tensor& t) { return Gradient(t); }
  // Makes the gradient of y, which has been used for the last time, the one
  // of t, when t has none yet; else does nothing and returns false.
  virtual bool HandGradient(const Tensor& y, const Tensor& t) { return false; }
  // Runs in reverse order of recording.
  virtual void Record(OpId op, std::function<void()> backward) = 0;
  // Whether the next Exec::Recompute shall keep its results alone.
  virtual bool Recomputes() const { return false; }
  // Asked when it does: runs `forward`, records that it has to run again, and
  // gives back everything in the arena but the results.
  virtual std::vector<Tensor> Recompute(
      Arena& arena, std::function<std::vector<Tensor>()> forward) {
    return forward();
  }
};

struct Routing {
  Tensor idx;  // [M,K] i32, -1 = none
  Tensor w;    // [M,K] f32
};

class Exec {
 public:
  Exec(const Kernels& kernels, Arena& arena, Product product,
       Recorder* recorder = nullptr)
      : kernels_(kernels), arena_(arena), product_(product),
        recorder_(recorder) {}

  const Kernels& kernels() const { return kernels_; }
  Product product() const { return product_; }
  Arena& arena() { return arena_; }
  Recorder* recorder() { return recorder_; }

  // A part of a model that a recorder may run again in the backward pass
  // instead of keeping what lies between its inputs and its results (some
  // may be empty). What `forward` reads must outlive the backward pass; it
  // may run twice.
  bool recomputes() const {
    return recorder_ != nullptr && recorder_->Recomputes();
  }
  std::vector<Tensor> Recompute(
      std::function<std::vector<Tensor>(Exec&)> forward);

  // Spans (ids, rows, segments, masks, frequencies) must live until the
  // backward ran;
  // Exec does not copy them. Keep them in the arena or with the caller.
  Tensor Embed(std::span<const int32_t> ids, const Tensor& table);
  Tensor Linear(const Tensor& x, const Tensor& w);
  // The same for several (x, w) at once; x of equal tensors side by side.
  std::vector<Tensor> Linears(
      std::span<const std::pair<Tensor, Tensor>> inputs);
  Tensor Add(const Tensor& a, const Tensor& b);
  Tensor AddBias(const Tensor& x, const Tensor& b);
  // a may be empty: s b alone.
  Tensor AddScaled(const Tensor& a, float s, const Tensor& b);
  // rate 0: x itself.
  Tensor Dropout(const Tensor& x, double rate, uint64_t seed);
  Tensor RmsNorm(const Tensor& x, const Tensor& w, float eps);
  Tensor LayerNorm(const Tensor& x, const Tensor& w, const Tensor& b,
                   float eps);
  // LayerNorm(Add(a, AddBias(x, bias)), w, b, eps), the same bits; in one
  // pass when none of it is recorded.
  Tensor LayerNorm(const Tensor& x, const Tensor& bias, const Tensor& a,
                   const Tensor& w, const Tensor& b, float eps);
  Tensor Normalise(const Tensor& x);
  Tensor Rope(const Tensor& x, std::span<const int32_t> positions,
              std::span<const double> frequencies);
  Tensor Attention(const Tensor& q, const Tensor& k, const Tensor& v,
                   const HeadShape& shape, std::span<const Segment> segments);
  Tensor SwiGlu(const Tensor& gate, const Tensor& up);
  Tensor Gelu(const Tensor& x);
  // Gelu(AddBias(x, bias)), likewise.
  Tensor Gelu(const Tensor& x, const Tensor& bias);
  Tensor MeanPool(const Tensor& x, std::span<const Segment> segments);
  Tensor OwnerBias(const Tensor& x, const Tensor& b);
  // k: room for choices, the shared ones of the limits included.
  Routing TopK(const Tensor& x, const RowLimits& limits, int k,
               bool renormalise);
  // most: of the choices of any row.
  Routing TopP(const Tensor& x, const RowLimits& limits, double p, int most,
               bool renormalise);
  Routing NullTopK(const Tensor& x, const Tensor& nulls,
                   const RowLimits& limits, int k);
  Routing Capacity(const Routing& routing, int64_t capacity);
  Routing AnchoredRoute(const Tensor& h, const AnchoredLayer& layer,
                        std::span<const RouteSegment> segments);
  Tensor Gather(const Tensor& x, std::span<const int32_t> rows);
  // experts: rows, slots and f filled; ascending expert order.
  Tensor Combine(const Routing& routing, std::vector<ExpertRows> experts,
                 int64_t rows, int64_t cols);
  // Losses return their value; their gradient is recorded with weight 1.
  double CrossEntropy(const Tensor& logits, std::span<const int32_t> targets,
                      double z_weight, Tensor* nll = nullptr,
                      double* parts = nullptr);
  // The loss of logits = h head^T, in pieces of rows so that [M,V] is never
  // held. count: rows with a target in the whole batch, of which this may be
  // a piece. Gradients are added at once: nothing is recorded.
  double HeadLoss(const Tensor& h, const Tensor& head,
                  std::span<const int32_t> targets, int64_t count,
                  double z_weight, double* parts = nullptr);
  // Returns mean lse^2; its gradient is recorded times `weight`.
  double RouterZ(const Tensor& x, double weight);
  // Returns E sum u P; its gradient is recorded times `weight`. totals
  // [E+1]: zeros before the first piece of a batch, kept by the caller.
  double LoadBalance(const Tensor& x, const Routing& routing, bool counts,
                     std::span<double> totals, double weight,
                     ExpertMask shared = 0);

 private:
  Routing NewRouting(int64_t rows, int64_t k);
  void RecordChoice(OpId op, const Tensor& x,
                    std::span<const ExpertMask> allowed, bool renormalise,
                    const Routing& out);
  void RecordLinear(const Tensor& x, const Tensor& w, const Tensor& y);
  bool Needs(const Tensor& t) const {
    return recorder_ != nullptr && recorder_->Needs(t);
  }
  const Kernels& kernels_;
  Arena& arena_;
  Product product_;
  Recorder* recorder_;
};

}  // namespace motet::math
