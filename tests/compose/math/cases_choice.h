// SPDX-License-Identifier: Apache-2.0
// Cases of operators that choose experts or weigh their loads. Included by
// cases.cc alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "tests/compose/math/cases.h"

namespace motet::math {

// Logits far from each other, so that a nudge never changes a choice.
inline Tensor SpacedLogits(int64_t rows, int64_t experts, Random& random,
                           Pool& pool) {
  Tensor x = pool.Zeros({rows, experts});
  for (int64_t m = 0; m < rows; ++m) {
    float* level = x.f32() + m * experts;
    for (int64_t e = 0; e < experts; ++e) level[e] = 0.2f * e;
    for (int64_t e = experts - 1; e > 0; --e) {
      std::swap(level[e], level[random.Int(0, e)]);
    }
  }
  return x;
}

// Masks and numbers of choices of some rows, or of none.
struct OwnLimits {
  std::vector<ExpertMask> allowed;
  std::vector<int32_t> active;
  ExpertMask shared = 0;
  operator RowLimits() const { return {allowed, active, shared}; }
};
inline OwnLimits RandomLimits(int64_t rows, Random& random) {
  OwnLimits limits;
  const bool masked = random.Flip(), bound = random.Flip();
  for (int64_t m = 0; m < rows; ++m) {
    if (masked) {
      limits.allowed.push_back(static_cast<ExpertMask>(random.Int(0, 4095)) |
                               1);
    }
    if (bound) limits.active.push_back(static_cast<int32_t>(random.Int(1, 5)));
  }
  return limits;
}

// Up to two shared experts, not always among those allowed.
inline ExpertMask RandomShared(Random& random) {
  constexpr ExpertMask kSome[] = {0, 0, 0b1, 0b11, 0b100};
  return kSome[random.Int(0, 4)];
}

// A case whose outputs are weights, then choices.
using Choose = std::function<void(const Kernels&, const Tensor& x, Tensor idx,
                                  Tensor w)>;
inline void MakeChoice(Case& c, Tensor x, int64_t choices, OwnLimits limits,
                       bool renormalise, Choose choose) {
  c.inputs = {x};
  auto allowed = Keep(std::move(limits.allowed));
  auto idx = Keep(c.pool.Zeros({x.rows(), choices}, DType::kI32));
  auto w = Keep(c.pool.Zeros({x.rows(), choices}));
  c.forward = [=](const Kernels& k, Case& c) {
    choose(k, c.inputs[0], *idx, *w);
    Numbers out = Values(*w);
    Append(*idx, out);
    return out;
  };
  c.backward = [=](const Kernels& k, Case& c, const Numbers& g,
                   std::vector<Tensor>& d) {
    const Tensor dw = FromNumbers(g, 0, w->shape, c.pool);
    k.top_k_backward(c.inputs[0], *allowed, renormalise, *idx, *w, dw, d[0]);
  };
}

template <>
struct OpCase<OpId::kTopK> {
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(0, 300), experts = random.Int(1, 12);
    const bool renormalise = random.Flip();
    auto limits = Keep(RandomLimits(rows, random));
    limits->shared = RandomShared(random);
    MakeChoice(c, SpacedLogits(rows, experts, random, c.pool),
               random.Int(1, 4) + CountExperts(limits->shared), *limits,
               renormalise,
               [=](const Kernels& k, const Tensor& x, Tensor idx, Tensor w) {
                 k.top_k(x, *limits, renormalise, idx, w);
               });
  }
};

template <>
struct OpCase<OpId::kTopP> {
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(0, 300), experts = random.Int(1, 12);
    const bool renormalise = random.Flip();
    // Between the sums that a row of logits like these can reach. A renewed
    // softmax of a nudge must not cross it: seldom, and then small.
    const double p = 0.05 * static_cast<double>(random.Int(1, 20));
    auto limits = Keep(RandomLimits(rows, random));
    MakeChoice(c, SpacedLogits(rows, experts, random, c.pool), experts,
               *limits, renormalise,
               [=](const Kernels& k, const Tensor& x, Tensor idx, Tensor w) {
                 k.top_p(x, *limits, p, renormalise, idx, w);
               });
  }
};

template <>
struct OpCase<OpId::kNullTopK> {
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(0, 300), experts = random.Int(1, 12);
    Tensor nulls = c.pool.Zeros({rows, random.Int(1, 3)});
    for (int64_t i = 0; i < nulls.size(); ++i) {
      // Halfway between two logits of SpacedLogits.
      nulls.f32()[i] = 0.2f * random.Int(-1, experts) + 0.1f;
    }
    auto limits = Keep(RandomLimits(rows, random));
    limits->shared = RandomShared(random);
    MakeChoice(c, SpacedLogits(rows, experts, random, c.pool),
               random.Int(1, 4) + CountExperts(limits->shared), *limits, true,
               [=](const Kernels& k, const Tensor& x, Tensor idx, Tensor w) {
                 k.null_top_k(x, nulls, *limits, idx, w);
               });
  }
};

// Random choices of distinct experts, some of them not taken.
inline Tensor RandomChoices(int64_t rows, int64_t choices, int64_t experts,
                            Random& random, Pool& pool) {
  Tensor idx = pool.Zeros({rows, choices}, DType::kI32);
  for (int64_t m = 0; m < rows; ++m) {
    std::vector<int32_t> order(experts);
    for (int64_t e = 0; e < experts; ++e) order[e] = static_cast<int32_t>(e);
    for (int64_t k = 0; k < choices; ++k) {
      std::swap(order[k], order[random.Int(k, experts - 1)]);
      idx.i32()[m * choices + k] = random.Int(0, 6) == 0 ? -1 : order[k];
    }
  }
  return idx;
}

template <>
struct OpCase<OpId::kCapacity> {
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(0, 60), experts = random.Int(1, 6);
    const int64_t choices = random.Int(1, std::min<int64_t>(experts, 3));
    const int64_t capacity = random.Int(0, 20);
    const Tensor idx =
        RandomChoices(rows, choices, experts, random, c.pool);
    c.inputs = {c.pool.Normal({rows, choices}, random)};
    auto kept = Keep(c.pool.Zeros({rows, choices}, DType::kI32));
    c.forward = [=](const Kernels& k, Case& c) {
      const Tensor w = c.pool.Zeros({rows, choices});
      k.capacity(idx, c.inputs[0], capacity, *kept, w);
      Numbers out = Values(w);
      Append(*kept, out);
      return out;
    };
    c.backward = [=](const Kernels& k, Case& c, const Numbers& g,
                     std::vector<Tensor>& d) {
      k.capacity_backward(*kept, FromNumbers(g, 0, {rows, choices}, c.pool),
                          d[0]);
    };
  }
};

template <>
struct OpCase<OpId::kLoadBalance> {
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(0, 60), experts = random.Int(1, 6);
    const int64_t choices = random.Int(1, std::min<int64_t>(experts, 3));
    const bool counts = random.Flip();
    const ExpertMask shared = RandomShared(random);
    const Tensor idx =
        RandomChoices(rows, choices, experts, random, c.pool);
    c.inputs = {c.pool.Normal({rows, experts}, random),
                c.pool.Normal({rows, choices}, random)};
    // Gates are above 0; beside shared experts a row's are divided by their
    // sum, so that none may be near to it.
    for (int64_t i = 0; i < c.inputs[1].size(); ++i) {
      float& gate = c.inputs[1].f32()[i];
      gate = 0.5f + std::abs(gate);
    }
    // As after earlier pieces of the batch.
    std::vector<double> earlier(experts + 1);
    for (double& t : earlier) t = static_cast<double>(random.Int(0, 30));
    auto totals = Keep(earlier);
    c.forward = [=](const Kernels& k, Case& c) {
      *totals = earlier;
      Numbers out = {k.load_balance(c.inputs[0], idx, c.inputs[1], counts,
                                    shared, *totals)};
      out.insert(out.end(), totals->begin(), totals->end());
      return out;
    };
    c.backward = [=](const Kernels& k, Case& c, const Numbers& g,
                     std::vector<Tensor>& d) {
      k.load_balance_backward(c.inputs[0], idx, c.inputs[1], counts, shared,
                              *totals, g[0], d[0], d[1]);
    };
  }
};

}  // namespace motet::math
