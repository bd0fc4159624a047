// SPDX-License-Identifier: Apache-2.0
#include "compose/math/exec.h"

#include <algorithm>
#include <utility>

namespace motet::math {
namespace {

int64_t Count(std::span<const int32_t> s) {
  return static_cast<int64_t>(s.size());
}

// The gradient of y added to that of t, of equal size. last: y's has no other
// use, so that it may become t's where it lies.
void Pass(const Kernels& kernels, Recorder& recorder, const Tensor& y,
          const Tensor& t, bool last) {
  if (last && recorder.HandGradient(y, t)) return;
  const Tensor d = recorder.FirstGradient(t);
  if (d.empty()) return;
  const Tensor dy = recorder.Gradient(y);
  d.fresh ? kernels.add_scaled({}, 1.0f, dy, d) : kernels.add(d, dy, d);
}

}  // namespace

// Each operator: allocate, run, and when an input needs a gradient, mark the
// result and record the backward. Closures hold kernels and recorder by
// pointer, never the Exec, which may be gone by then. A recorder's Gradient()
// is empty for frozen inputs, and kernels skip empty gradients.

Tensor Exec::Embed(std::span<const int32_t> ids, const Tensor& table) {
  Tensor y = arena_.New({Count(ids), table.cols()});
  kernels_.embed(ids, table, y);
  if (Needs(table)) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kEmbed, [k = &kernels_, r = recorder_, ids, table,
                                     y] {
      k->embed_backward(ids, r->Gradient(y), r->Gradient(table));
    });
  }
  return y;
}

Tensor Exec::Linear(const Tensor& x, const Tensor& w) {
  Tensor y = arena_.New({x.rows(), w.rows()});
  kernels_.linear(x, w, y, product_);
  RecordLinear(x, w, y);
  return y;
}

std::vector<Tensor> Exec::Linears(
    std::span<const std::pair<Tensor, Tensor>> inputs) {
  std::vector<LinearTask> tasks;
  std::vector<Tensor> outputs;
  for (const auto& [x, w] : inputs) {
    outputs.push_back(arena_.New({x.rows(), w.rows()}));
    tasks.push_back({x, w, outputs.back()});
  }
  kernels_.linears(tasks, product_);
  for (const LinearTask& t : tasks) RecordLinear(t.x, t.w, t.y);
  return outputs;
}

void Exec::RecordLinear(const Tensor& x, const Tensor& w, const Tensor& y) {
  if (!Needs(x) && !Needs(w)) return;
  recorder_->MarkNeeded(y);
  recorder_->Record(OpId::kLinear, [k = &kernels_, r = recorder_, x, w, y,
                                    product = product_] {
    if (x.rows() == 0) return;  // an expert that no token chose
    k->linear_backward(x, w, r->Gradient(y), r->FirstGradient(x),
                       r->FirstGradient(w), product);
  });
}

Tensor Exec::Add(const Tensor& a, const Tensor& b) {
  Tensor y = arena_.New(a.shape);
  kernels_.add(a, b, y);
  if (Needs(a) || Needs(b)) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kAdd, [k = &kernels_, r = recorder_, a, b, y] {
      Pass(*k, *r, y, b, false);
      Pass(*k, *r, y, a, true);
    });
  }
  return y;
}

Tensor Exec::AddBias(const Tensor& x, const Tensor& b) {
  Tensor y = arena_.New(x.shape);
  kernels_.add_bias(x, b, y);
  if (Needs(x) || Needs(b)) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kAddBias, [k = &kernels_, r = recorder_, x, b, y] {
      k->add_bias_backward(r->Gradient(y), r->Gradient(b));
      Pass(*k, *r, y, x, true);
    });
  }
  return y;
}

Tensor Exec::AddScaled(const Tensor& a, float s, const Tensor& b) {
  Tensor y = arena_.New(b.shape);
  kernels_.add_scaled(a, s, b, y);
  if (Needs(a) || Needs(b)) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kAddScaled, [k = &kernels_, r = recorder_, a, s,
                                         b, y] {
      const Tensor dy = r->Gradient(y), db = r->FirstGradient(b);
      if (!db.empty()) k->add_scaled(db.fresh ? Tensor{} : db, s, dy, db);
      Pass(*k, *r, y, a, true);
    });
  }
  return y;
}

Tensor Exec::Dropout(const Tensor& x, double rate, uint64_t seed) {
  if (rate == 0) return x;
  Tensor y = arena_.New(x.shape);
  kernels_.dropout(x, rate, seed, y);
  if (Needs(x)) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kDropout, [k = &kernels_, r = recorder_, x, rate,
                                       seed, y] {
      k->dropout_backward(r->Gradient(y), rate, seed, r->FirstGradient(x));
    });
  }
  return y;
}

Tensor Exec::RmsNorm(const Tensor& x, const Tensor& w, float eps) {
  Tensor y = arena_.New(x.shape);
  const bool needed = Needs(x) || Needs(w);
  Tensor inverse_rms;
  if (needed) inverse_rms = arena_.New({x.rows()});
  kernels_.rms_norm(x, w, eps, y, inverse_rms);
  if (needed) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kRmsNorm, [k = &kernels_, r = recorder_, x, w,
                                       inverse_rms, y] {
      k->rms_norm_backward(x, w, inverse_rms, r->Gradient(y),
                           r->FirstGradient(x), r->Gradient(w));
    });
  }
  return y;
}

Tensor Exec::LayerNorm(const Tensor& x, const Tensor& w, const Tensor& b,
                       float eps) {
  Tensor y = arena_.New(x.shape);
  const bool needed = Needs(x) || Needs(w) || Needs(b);
  Tensor moments;
  if (needed) moments = arena_.New({x.rows(), 2});
  kernels_.layer_norm(x, {}, {}, w, b, eps, y, moments);
  if (needed) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kLayerNorm, [k = &kernels_, r = recorder_, x, w,
                                         b, moments, y] {
      k->layer_norm_backward(x, w, moments, r->Gradient(y),
                             r->FirstGradient(x), r->Gradient(w),
                             r->Gradient(b));
    });
  }
  return y;
}

Tensor Exec::LayerNorm(const Tensor& x, const Tensor& bias, const Tensor& a,
                       const Tensor& w, const Tensor& b, float eps) {
  if (Needs(x) || Needs(bias) || Needs(a) || Needs(w) || Needs(b)) {
    return LayerNorm(Add(a, AddBias(x, bias)), w, b, eps);
  }
  Tensor y = arena_.New(x.shape);
  kernels_.layer_norm(x, bias, a, w, b, eps, y, {});
  return y;
}

Tensor Exec::Normalise(const Tensor& x) {
  Tensor y = arena_.New(x.shape);
  kernels_.normalise(x, y);
  if (Needs(x)) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kNormalise, [k = &kernels_, r = recorder_, x, y] {
      k->normalise_backward(x, r->Gradient(y), r->Gradient(x));
    });
  }
  return y;
}

Tensor Exec::Rope(const Tensor& x, std::span<const int32_t> positions,
                  std::span<const double> frequencies) {
  Tensor y = arena_.New(x.shape);
  kernels_.rope(x, positions, frequencies, y);
  if (Needs(x)) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kRope, [k = &kernels_, r = recorder_, x,
                                    positions, frequencies, y] {
      k->rope_backward(r->Gradient(y), positions, frequencies,
                       r->FirstGradient(x));
    });
  }
  return y;
}

Tensor Exec::Attention(const Tensor& q, const Tensor& k, const Tensor& v,
                       const HeadShape& heads,
                       std::span<const Segment> segments) {
  HeadShape shape = heads;
  shape.product = product_;
  Tensor y = arena_.New(q.shape);
  const bool needed = Needs(q) || Needs(k) || Needs(v);
  Tensor lse;
  if (needed) lse = arena_.New({q.rows(), shape.heads});
  kernels_.attention(q, k, v, shape, segments, y, lse);
  if (needed) {
    recorder_->MarkNeeded(y);
    int64_t rows = 0;
    for (const Segment& s : segments) rows += s.rows;
    recorder_->Record(OpId::kAttention, [kernels = &kernels_, r = recorder_,
                                         q, k, v, shape, segments, y, lse,
                                         whole = rows == q.rows()] {
      const auto gradient = [&](const Tensor& t) {
        return whole ? r->FirstGradient(t) : r->Gradient(t);
      };
      kernels->attention_backward(q, k, v, shape, segments, y, lse,
                                  r->Gradient(y), gradient(q), gradient(k),
                                  gradient(v));
    });
  }
  return y;
}

Tensor Exec::SwiGlu(const Tensor& gate, const Tensor& up) {
  Tensor y = arena_.New(gate.shape);
  kernels_.swiglu(gate, up, y);
  if (Needs(gate) || Needs(up)) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kSwiGlu, [k = &kernels_, r = recorder_, gate, up,
                                      y] {
      k->swiglu_backward(gate, up, r->Gradient(y), r->FirstGradient(gate),
                         r->FirstGradient(up));
    });
  }
  return y;
}

Tensor Exec::Gelu(const Tensor& x) {
  Tensor y = arena_.New(x.shape);
  kernels_.gelu(x, {}, y);
  if (Needs(x)) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kGelu, [k = &kernels_, r = recorder_, x, y] {
      k->gelu_backward(x, r->Gradient(y), r->FirstGradient(x));
    });
  }
  return y;
}

Tensor Exec::Gelu(const Tensor& x, const Tensor& bias) {
  if (Needs(x) || Needs(bias)) return Gelu(AddBias(x, bias));
  Tensor y = arena_.New(x.shape);
  kernels_.gelu(x, bias, y);
  return y;
}

Tensor Exec::MeanPool(const Tensor& x, std::span<const Segment> segments) {
  Tensor y = arena_.New({static_cast<int64_t>(segments.size()), x.cols()});
  kernels_.mean_pool(x, segments, y);
  if (Needs(x)) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kMeanPool, [k = &kernels_, r = recorder_, x,
                                        segments, y] {
      k->mean_pool_backward(segments, r->Gradient(y), r->Gradient(x));
    });
  }
  return y;
}

Tensor Exec::OwnerBias(const Tensor& x, const Tensor& b) {
  Tensor y = arena_.New(x.shape);
  kernels_.owner_bias(x, b, y);
  if (Needs(x) || Needs(b)) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kOwnerBias, [k = &kernels_, r = recorder_, x, b,
                                         y] {
      k->owner_bias_backward(b, r->Gradient(y), r->Gradient(x),
                             r->Gradient(b));
    });
  }
  return y;
}

Routing Exec::NewRouting(int64_t rows, int64_t k) {
  return {arena_.New({rows, k}, DType::kI32), arena_.New({rows, k})};
}

void Exec::RecordChoice(OpId op, const Tensor& x,
                        std::span<const ExpertMask> allowed, bool renormalise,
                        const Routing& out) {
  if (!Needs(x)) return;
  recorder_->MarkNeeded(out.w);
  recorder_->Record(op, [kernels = &kernels_, r = recorder_, x, allowed,
                         renormalise, out] {
    kernels->top_k_backward(x, allowed, renormalise, out.idx, out.w,
                            r->Gradient(out.w), r->Gradient(x));
  });
}

Routing Exec::TopK(const Tensor& x, const RowLimits& limits, int k,
                   bool renormalise) {
  const Routing out = NewRouting(x.rows(), k);
  kernels_.top_k(x, limits, renormalise, out.idx, out.w);
  RecordChoice(OpId::kTopK, x, limits.allowed, renormalise, out);
  return out;
}

Routing Exec::TopP(const Tensor& x, const RowLimits& limits, double p,
                   int most, bool renormalise) {
  const Routing out = NewRouting(x.rows(), most);
  kernels_.top_p(x, limits, p, renormalise, out.idx, out.w);
  RecordChoice(OpId::kTopP, x, limits.allowed, renormalise, out);
  return out;
}

Routing Exec::NullTopK(const Tensor& x, const Tensor& nulls,
                       const RowLimits& limits, int k) {
  const Routing out = NewRouting(x.rows(), k);
  kernels_.null_top_k(x, nulls, limits, out.idx, out.w);
  RecordChoice(OpId::kNullTopK, x, limits.allowed, true, out);
  return out;
}

Routing Exec::Capacity(const Routing& routing, int64_t capacity) {
  const Routing out = NewRouting(routing.idx.rows(), routing.idx.cols());
  kernels_.capacity(routing.idx, routing.w, capacity, out.idx, out.w);
  if (Needs(routing.w)) {
    recorder_->MarkNeeded(out.w);
    recorder_->Record(OpId::kCapacity, [k = &kernels_, r = recorder_,
                                        w = routing.w, out] {
      k->capacity_backward(out.idx, r->Gradient(out.w), r->Gradient(w));
    });
  }
  return out;
}

Routing Exec::AnchoredRoute(const Tensor& h, const AnchoredLayer& layer,
                            std::span<const RouteSegment> segments) {
  Routing out;
  out.idx = arena_.New({h.rows(), 2}, DType::kI32);
  out.w = arena_.New({h.rows(), 2});
  kernels_.anchored_route(h, layer, segments, out.idx, out.w);
  return out;
}

Tensor Exec::Gather(const Tensor& x, std::span<const int32_t> rows) {
  Tensor y = arena_.New({Count(rows), x.cols()});
  kernels_.gather(x, rows, y);
  if (Needs(x)) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kGather, [k = &kernels_, r = recorder_, x, rows,
                                      y] {
      k->gather_backward(rows, r->Gradient(y), r->Gradient(x));
    });
  }
  return y;
}

Tensor Exec::Combine(const Routing& routing, std::vector<ExpertRows> experts,
                     int64_t rows, int64_t cols) {
  Tensor y = arena_.New({rows, cols});
  kernels_.combine(routing.w, experts, y);
  bool needed = Needs(routing.w);
  for (const ExpertRows& expert : experts) {
    needed = needed || Needs(expert.f);
  }
  if (needed) {
    recorder_->MarkNeeded(y);
    recorder_->Record(OpId::kCombine, [k = &kernels_, r = recorder_,
                                       w = routing.w,
                                       experts = std::move(experts),
                                       y]() mutable {
      for (ExpertRows& expert : experts) expert.df = r->Gradient(expert.f);
      k->combine_backward(w, experts, r->Gradient(y), r->Gradient(w));
    });
  }
  return y;
}

double Exec::CrossEntropy(const Tensor& logits,
                          std::span<const int32_t> targets, double z_weight,
                          Tensor* nll, double* parts) {
  if (nll != nullptr && nll->empty()) *nll = arena_.New({logits.rows()});
  const bool needed = Needs(logits);
  Tensor lse;
  if (needed) lse = arena_.New({logits.rows()});
  const double loss =
      kernels_.cross_entropy(logits, targets, z_weight,
                             nll != nullptr ? *nll : Tensor{}, lse, parts);
  if (needed) {
    recorder_->Record(OpId::kCrossEntropy, [k = &kernels_, r = recorder_,
                                            logits, targets, z_weight, lse] {
      k->cross_entropy_backward(logits, targets, z_weight, lse, 1.0,
                                r->Gradient(logits));
    });
  }
  return loss;
}

std::vector<Tensor> Exec::Recompute(
    std::function<std::vector<Tensor>(Exec&)> forward) {
  if (!recomputes()) return forward(*this);
  return recorder_->Recompute(
      arena_, [exec = *this, forward = std::move(forward)]() mutable {
        return forward(exec);
      });
}

double Exec::HeadLoss(const Tensor& h, const Tensor& head,
                      std::span<const int32_t> targets, int64_t count,
                      double z_weight, double* parts) {
  // Pieces of equal size, as few as keep the logits within kBytes.
  constexpr int64_t kBytes = int64_t{64} << 20;
  const int64_t fit = std::max<int64_t>(
      1, kBytes / (head.rows() * ByteSize(DType::kF32)));
  const int64_t pieces = std::max<int64_t>(1, (h.rows() + fit - 1) / fit);
  const bool adds = count > 0 && h.rows() > 0;
  const auto gradient = [this, adds](const Tensor& t) {
    if (!Needs(t)) return Tensor{};
    return adds ? recorder_->FirstGradient(t) : recorder_->Gradient(t);
  };
  const Tensor dh = gradient(h), dhead = gradient(head);
  const Arena::Mark mark = arena_.mark();
  const Tensor logits =
      arena_.New({(h.rows() + pieces - 1) / pieces, head.rows()});
  const double loss =
      kernels_.head_loss(h, head, targets, count, z_weight, 1.0, product_,
                         logits, dh, dhead, parts);
  arena_.Release(mark);
  return loss;
}

double Exec::RouterZ(const Tensor& x, double weight) {
  const double value = kernels_.router_z(x);
  if (Needs(x)) {
    recorder_->Record(OpId::kRouterZ, [k = &kernels_, r = recorder_, x,
                                       weight] {
      k->router_z_backward(x, weight, r->Gradient(x));
    });
  }
  return value;
}

double Exec::LoadBalance(const Tensor& x, const Routing& routing, bool counts,
                         std::span<double> totals, double weight,
                         ExpertMask shared) {
  const double value = kernels_.load_balance(x, routing.idx, routing.w, counts,
                                             shared, totals);
  if (Needs(x) || Needs(routing.w)) {
    // As they are now: later pieces go on adding to the caller's.
    recorder_->Record(
        OpId::kLoadBalance,
        [k = &kernels_, r = recorder_, x, routing, counts, shared, weight,
         now = std::vector<double>(totals.begin(), totals.end())] {
          k->load_balance_backward(x, routing.idx, routing.w, counts, shared,
                                   now, weight, r->Gradient(x),
                                   r->Gradient(routing.w));
        });
  }
  return value;
}

}  // namespace motet::math
