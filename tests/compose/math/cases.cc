// SPDX-License-Identifier: Apache-2.0
#include "tests/compose/math/cases.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/compose/math/cases_choice.h"
#include "tests/compose/math/cases_rows.h"

namespace motet::math {

Tensor Pool::Zeros(const Shape& shape, DType dtype) {
  Tensor t;
  t.dtype = dtype;
  t.shape = shape;
  memory_.emplace_back(t.bytes() / 8 + 1);
  t.data = memory_.back().data();
  return t;
}

Tensor Pool::Normal(const Shape& shape, Random& random, float scale) {
  Tensor t = Zeros(shape);
  for (int64_t i = 0; i < t.size(); ++i) t.f32()[i] = scale * random.Normal();
  return t;
}

Tensor Pool::Copy(const Tensor& t) {
  Tensor copy = Zeros(t.shape, t.dtype);
  std::memcpy(copy.data, t.data, t.bytes());
  return copy;
}

void Append(const Tensor& t, Numbers& numbers) {
  for (int64_t i = 0; i < t.size(); ++i) {
    numbers.push_back(t.dtype == DType::kI32 ? t.i32()[i] : t.f32()[i]);
  }
}

Numbers Values(const Tensor& t) {
  Numbers numbers;
  Append(t, numbers);
  return numbers;
}

std::vector<int32_t> RandomRows(Random& random, int64_t count, int64_t below) {
  std::vector<int32_t> rows(count);
  for (int32_t& r : rows) r = static_cast<int32_t>(random.Int(0, below - 1));
  return rows;
}

Tensor FromNumbers(const Numbers& numbers, int64_t offset, const Shape& shape,
                   Pool& pool) {
  Tensor t = pool.Zeros(shape);
  for (int64_t i = 0; i < t.size(); ++i) {
    t.f32()[i] = static_cast<float>(numbers[offset + i]);
  }
  return t;
}

template <>
struct OpCase<OpId::kEmbed> {
  static void Make(Random& random, Case& c) {
    const int64_t vocabulary = random.Int(1, 9), cols = random.Int(1, 150);
    c.inputs = {c.pool.Normal({vocabulary, cols}, random)};
    auto ids = Keep(RandomRows(random, random.Int(0, 300), vocabulary));
    c.forward = [ids](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(
          {static_cast<int64_t>(ids->size()), c.inputs[0].cols()});
      k.embed(*ids, c.inputs[0], y);
      return Values(y);
    };
    c.backward = [ids](const Kernels& k, Case& c, const Numbers& g,
                       std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(
          g, 0, {static_cast<int64_t>(ids->size()), c.inputs[0].cols()},
          c.pool);
      k.embed_backward(*ids, dy, d[0]);
    };
  }
};

template <>
struct OpCase<OpId::kLinear> {
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(0, 40), cols = random.Int(1, 70);
    const int64_t outputs = random.Int(1, 60);
    const Product product =
        random.Flip() ? Product::kExact : Product::kLibrary;
    const Tensor x = c.pool.Normal({rows, cols}, random);
    Tensor w = c.pool.Normal({outputs, cols}, random);
    // bf16 weights are data, never trained: only x is differentiable.
    const bool bf16 = random.Int(0, 2) == 0;
    c.inputs = {x};
    if (bf16) {
      Tensor narrow = c.pool.Zeros({outputs, cols}, DType::kBF16);
      for (int64_t i = 0; i < w.size(); ++i) {
        static_cast<uint16_t*>(narrow.data)[i] = NarrowBf16(w.f32()[i]);
      }
      w = narrow;
    } else {
      c.inputs.push_back(w);
    }
    c.forward = [w, product](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros({c.inputs[0].rows(), w.rows()});
      k.linear(c.inputs[0], w, y, product);
      return Values(y);
    };
    c.backward = [w, product](const Kernels& k, Case& c, const Numbers& g,
                              std::vector<Tensor>& d) {
      const Tensor& x = c.inputs[0];
      const Tensor dy = FromNumbers(g, 0, {x.rows(), w.rows()}, c.pool);
      k.linear_backward(x, w, dy, d[0], d.size() > 1 ? d[1] : Tensor{},
                        product);
    };
  }
};

template <>
struct OpCase<OpId::kAdd> {
  static void Make(Random& random, Case& c) {
    const Shape shape = {random.Int(0, 50), random.Int(1, 50)};
    c.inputs = {c.pool.Normal(shape, random), c.pool.Normal(shape, random)};
    c.forward = [](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(c.inputs[0].shape);
      k.add(c.inputs[0], c.inputs[1], y);
      return Values(y);
    };
    c.backward = [](const Kernels& k, Case& c, const Numbers& g,
                    std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(g, 0, c.inputs[0].shape, c.pool);
      for (const Tensor& t : d) {
        if (!t.empty()) k.add(t, dy, t);
      }
    };
  }
};

template <>
struct OpCase<OpId::kRmsNorm> {
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(0, 70), cols = random.Int(1, 80);
    c.inputs = {c.pool.Normal({rows, cols}, random),
                c.pool.Normal({cols}, random)};
    auto inverse = Keep(c.pool.Zeros({rows}));
    c.forward = [inverse](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(c.inputs[0].shape);
      k.rms_norm(c.inputs[0], c.inputs[1], 1e-2f, y, *inverse);
      return Values(y);
    };
    c.backward = [inverse](const Kernels& k, Case& c, const Numbers& g,
                           std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(g, 0, c.inputs[0].shape, c.pool);
      k.rms_norm_backward(c.inputs[0], c.inputs[1], *inverse, dy, d[0], d[1]);
    };
  }
};

template <>
struct OpCase<OpId::kRope> {
  static void Make(Random& random, Case& c) {
    const int64_t head_dim = 2 * random.Int(1, 40);
    const int64_t rows = random.Int(0, 20);
    c.inputs = {c.pool.Normal({rows, head_dim * random.Int(1, 4)}, random)};
    auto positions = Keep(RandomRows(random, rows, 500));
    auto frequencies = Keep(std::vector<double>(head_dim / 2));
    for (double& f : *frequencies) f = std::exp(-std::abs(random.Normal()));
    c.forward = [=](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(c.inputs[0].shape);
      k.rope(c.inputs[0], *positions, *frequencies, y);
      return Values(y);
    };
    c.backward = [=](const Kernels& k, Case& c, const Numbers& g,
                     std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(g, 0, c.inputs[0].shape, c.pool);
      k.rope_backward(dy, *positions, *frequencies, d[0]);
    };
  }
};

template <>
struct OpCase<OpId::kAttention> {
  static void Make(Random& random, Case& c) {
    HeadShape shape;
    shape.kv_heads = random.Int(1, 3);
    shape.heads = shape.kv_heads * random.Int(1, 3);
    shape.head_dim = random.Int(1, 40);
    shape.causal = random.Flip();
    if (shape.causal && random.Flip()) shape.window = random.Int(1, 100);
    auto segments = Keep(std::vector<Segment>());
    int64_t rows = 0;
    for (int64_t i = random.Int(1, 3); i > 0; --i) {
      Segment s;
      s.row = rows;
      s.rows = random.Int(0, 80);  // past one block of keys
      rows += s.rows;
      segments->push_back(s);
    }
    const int64_t kv_cols = shape.kv_heads * shape.head_dim;
    c.inputs = {c.pool.Normal({rows, shape.heads * shape.head_dim}, random),
                c.pool.Normal({rows, kv_cols}, random),
                c.pool.Normal({rows, kv_cols}, random)};
    auto y = Keep(c.pool.Zeros(c.inputs[0].shape));
    auto lse = Keep(c.pool.Zeros({rows, shape.heads}));
    c.forward = [=](const Kernels& k, Case& c) {
      k.attention(c.inputs[0], c.inputs[1], c.inputs[2], shape, *segments, *y,
                  *lse);
      return Values(*y);
    };
    c.backward = [=](const Kernels& k, Case& c, const Numbers& g,
                     std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(g, 0, y->shape, c.pool);
      k.attention_backward(c.inputs[0], c.inputs[1], c.inputs[2], shape,
                           *segments, *y, *lse, dy, d[0], d[1], d[2]);
    };
  }
};

template <>
struct OpCase<OpId::kSwiGlu> {
  static void Make(Random& random, Case& c) {
    const Shape shape = {random.Int(0, 60), random.Int(1, 300)};
    c.inputs = {c.pool.Normal(shape, random, 3),
                c.pool.Normal(shape, random)};
    c.forward = [](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(c.inputs[0].shape);
      k.swiglu(c.inputs[0], c.inputs[1], y);
      return Values(y);
    };
    c.backward = [](const Kernels& k, Case& c, const Numbers& g,
                    std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(g, 0, c.inputs[0].shape, c.pool);
      k.swiglu_backward(c.inputs[0], c.inputs[1], dy, d[0], d[1]);
    };
  }
};

template <>
struct OpCase<OpId::kOwnerBias> {
  static void Make(Random& random, Case& c) {
    const int64_t experts = random.Int(2, 9);
    c.inputs = {c.pool.Normal({random.Int(0, 40), experts}, random),
                c.pool.Normal({experts - 1}, random)};
    for (int64_t e = 0; e < experts - 1; ++e) {  // away from the kink
      float& b = c.inputs[1].f32()[e];
      b += b < 0 ? -0.1f : 0.1f;
    }
    c.forward = [](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(c.inputs[0].shape);
      k.owner_bias(c.inputs[0], c.inputs[1], y);
      return Values(y);
    };
    c.backward = [](const Kernels& k, Case& c, const Numbers& g,
                    std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(g, 0, c.inputs[0].shape, c.pool);
      k.owner_bias_backward(c.inputs[1], dy, d[0], d[1]);
    };
  }
};

template <>
struct OpCase<OpId::kGather> {
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(1, 40), cols = random.Int(1, 150);
    c.inputs = {c.pool.Normal({rows, cols}, random)};
    auto from = Keep(RandomRows(random, random.Int(0, 300), rows));
    c.forward = [=](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros({static_cast<int64_t>(from->size()), cols});
      k.gather(c.inputs[0], *from, y);
      return Values(y);
    };
    c.backward = [=](const Kernels& k, Case& c, const Numbers& g,
                     std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(
          g, 0, {static_cast<int64_t>(from->size()), cols}, c.pool);
      k.gather_backward(*from, dy, d[0]);
    };
  }
};

template <>
struct OpCase<OpId::kCombine> {
  // Inputs: w, then f of each expert. Some experts have no tokens.
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(0, 60), cols = random.Int(1, 50);
    const int64_t experts = random.Int(1, 5);
    const int64_t choices = random.Int(1, experts);
    using Lists = std::vector<std::vector<int32_t>>;
    auto tokens = Keep(Lists(experts)), slots = Keep(Lists(experts));
    for (int64_t m = 0; m < rows; ++m) {
      std::vector<int64_t> order(experts);
      for (int64_t e = 0; e < experts; ++e) order[e] = e;
      for (int64_t k = 0; k < choices; ++k) {
        std::swap(order[k], order[random.Int(k, experts - 1)]);
        if (random.Int(0, 5) == 0) continue;  // a choice not taken
        (*tokens)[order[k]].push_back(static_cast<int32_t>(m));
        (*slots)[order[k]].push_back(static_cast<int32_t>(k));
      }
    }
    c.inputs = {c.pool.Normal({rows, choices}, random)};
    for (const auto& list : *tokens) {
      c.inputs.push_back(c.pool.Normal(
          {static_cast<int64_t>(list.size()), cols}, random));
    }
    auto shares = [=](Case& c, const std::vector<Tensor>* d) {
      std::vector<ExpertRows> list;
      for (int64_t e = 0; e < experts; ++e) {
        list.push_back({(*tokens)[e], (*slots)[e], c.inputs[1 + e],
                        d == nullptr ? Tensor{} : (*d)[1 + e]});
      }
      return list;
    };
    c.forward = [=](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros({rows, cols});
      k.combine(c.inputs[0], shares(c, nullptr), y);
      return Values(y);
    };
    c.backward = [=](const Kernels& k, Case& c, const Numbers& g,
                     std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(g, 0, {rows, cols}, c.pool);
      k.combine_backward(c.inputs[0], shares(c, &d), dy, d[0]);
    };
  }
};

template <>
struct OpCase<OpId::kCrossEntropy> {
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(0, 30), vocabulary = random.Int(2, 90);
    c.inputs = {c.pool.Normal({rows, vocabulary}, random, 2)};
    auto targets = Keep(RandomRows(random, rows, vocabulary + 3));
    for (int32_t& t : *targets) t = t >= vocabulary ? -1 : t;
    const double z = random.Flip() ? 0.0 : 1e-2;
    auto lse = Keep(c.pool.Zeros({rows}));
    c.forward = [=](const Kernels& k, Case& c) {
      Tensor nll = c.pool.Zeros({rows});
      double parts[2];
      const double loss =
          k.cross_entropy(c.inputs[0], *targets, z, nll, *lse, parts);
      Numbers out = {loss, parts[0], parts[1]};
      Append(nll, out);
      return out;
    };
    c.backward = [=](const Kernels& k, Case& c, const Numbers& g,
                     std::vector<Tensor>& d) {
      // The loss is what is differentiated; the rest is told beside it.
      k.cross_entropy_backward(c.inputs[0], *targets, z, *lse, g[0], d[0]);
    };
  }
};

template <>
struct OpCase<OpId::kHeadLoss> {
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(0, 30), vocabulary = random.Int(2, 90);
    const int64_t cols = random.Int(1, 20), room = random.Int(1, 12);
    const Tensor w = c.pool.Normal({vocabulary, cols}, random, 0.5);
    const bool frozen = random.Flip();
    c.inputs = {c.pool.Normal({rows, cols}, random)};
    if (!frozen) c.inputs.push_back(w);
    auto targets = Keep(RandomRows(random, rows, vocabulary + 3));
    for (int32_t& t : *targets) t = t >= vocabulary ? -1 : t;
    // As a piece of a larger batch too.
    const int64_t count = std::max<int64_t>(
        1, std::count_if(targets->begin(), targets->end(),
                         [](int32_t t) { return t >= 0; }) +
               random.Int(0, 5));
    const double z = random.Flip() ? 0.0 : 1e-2;
    const Product product =
        random.Flip() ? Product::kExact : Product::kLibrary;
    const auto run = [=](const Kernels& k, Case& c, double scale,
                         const Tensor& dh, const Tensor& dw) {
      double parts[2];
      const double loss = k.head_loss(
          c.inputs[0], w, *targets, count, z, scale, product,
          c.pool.Zeros({room, vocabulary}), dh, dw, parts);
      return Numbers{loss, parts[0], parts[1]};
    };
    c.forward = [run](const Kernels& k, Case& c) {
      return run(k, c, 1, {}, {});
    };
    c.backward = [run](const Kernels& k, Case& c, const Numbers& g,
                       std::vector<Tensor>& d) {
      run(k, c, g[0], d[0], d.size() > 1 ? d[1] : Tensor{});
    };
  }
};

template <>
struct OpCase<OpId::kRouterZ> {
  static void Make(Random& random, Case& c) {
    c.inputs = {c.pool.Normal({random.Int(0, 40), random.Int(1, 9)}, random)};
    c.forward = [](const Kernels& k, Case& c) {
      return Numbers{k.router_z(c.inputs[0])};
    };
    c.backward = [](const Kernels& k, Case& c, const Numbers& g,
                    std::vector<Tensor>& d) {
      k.router_z_backward(c.inputs[0], g[0], d[0]);
    };
  }
};

template <>
struct OpCase<OpId::kAnchoredRoute> {
  static void Make(Random& random, Case& c) {
    const int64_t experts = random.Int(1, 6), cols = random.Int(1, 40);
    auto layer = Keep(AnchoredLayer());
    layer->select = c.pool.Normal({experts, cols}, random);
    layer->offset = c.pool.Normal({experts}, random);
    layer->pair_mean = c.pool.Normal({experts, cols}, random);
    layer->threshold = c.pool.Zeros({experts});
    for (int64_t e = 0; e < experts; ++e) {
      layer->threshold.f32()[e] =
          e == 0 ? INFINITY : 2.0f * cols + 0.5f * random.Normal();
    }
    layer->precision = c.pool.Zeros({cols, cols});
    for (int64_t i = 0; i < cols; ++i) {
      layer->precision.f32()[i * cols + i] = 1 + std::abs(random.Normal());
    }
    layer->rows = c.pool.Normal({experts, cols}, random);
    layer->gate = random.Int(0, 3) != 0;
    if (random.Flip()) {
      layer->factor = c.pool.Normal({random.Int(1, cols), cols}, random);
    }
    layer->prefix_mean = random.Int(0, 3) == 0;
    layer->pair = random.Int(0, 3) != 0;
    auto segments = Keep(std::vector<RouteSegment>());
    int64_t rows = 0;
    for (int64_t i = random.Int(1, 3); i > 0; --i) {
      RouteSegment s;
      s.row = rows;
      s.rows = random.Int(0, 20);
      s.allowed = static_cast<ExpertMask>(random.Int(0, 63));
      rows += s.rows;
      segments->push_back(s);
    }
    const Tensor h = c.pool.Normal({rows, cols}, random);
    c.forward = [=](const Kernels& k, Case& c) {
      Tensor idx = c.pool.Zeros({rows, 2}, DType::kI32);
      Tensor w = c.pool.Zeros({rows, 2});
      k.anchored_route(h, *layer, *segments, idx, w);
      Numbers out = Values(w);
      Append(idx, out);
      return out;
    };
  }
};

template <>
struct OpCase<OpId::kAdamW> {
  static void Make(Random& random, Case& c) {
    const int64_t n = random.Int(0, 40000);
    const Tensor parameter = c.pool.Normal({n}, random);
    const Tensor gradient = c.pool.Normal({n}, random);
    const Tensor m = c.pool.Normal({n}, random);
    Tensor v = c.pool.Normal({n}, random);
    for (int64_t i = 0; i < n; ++i) v.f32()[i] = std::abs(v.f32()[i]);
    AdamWOptions options{};
    options.learning_rate = 1e-2f;
    options.beta1 = 0.9f;
    options.beta2 = 0.95f;
    options.eps = 1e-8f;
    options.weight_decay = random.Flip() ? 0.1f : 0.0f;
    options.step = random.Int(1, 100);
    options.gradient_scale = random.Flip() ? 0.3f : 1.0f;
    c.forward = [=](const Kernels& k, Case& c) {
      Tensor p = c.pool.Copy(parameter), first = c.pool.Copy(m);
      Tensor second = c.pool.Copy(v);
      k.adamw(p, gradient, first, second, options);
      Numbers out = Values(p);
      Append(first, out);
      Append(second, out);
      return out;
    };
  }
};

std::vector<CaseMaker> AllCases() {
  std::vector<CaseMaker> makers;
#define MOTET_CASE(name, ...)                                       \
  makers.push_back({Operators()[static_cast<int>(OpId::k##name)], \
                    OpCase<OpId::k##name>::Make});
  MOTET_OPERATORS(MOTET_CASE)
#undef MOTET_CASE
  return makers;
}

}  // namespace motet::math
