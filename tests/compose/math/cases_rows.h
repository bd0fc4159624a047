// SPDX-License-Identifier: Apache-2.0
// Cases of operators that work row by row or number by number: biases, layer
// norm, normalising, GELU, pooling. Included by cases.cc alone.
#pragma once

#include <memory>
#include <vector>

#include "tests/compose/math/cases.h"

namespace motet::math {

template <>
struct OpCase<OpId::kAddBias> {
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(0, 200), cols = random.Int(1, 150);
    c.inputs = {c.pool.Normal({rows, cols}, random),
                c.pool.Normal({cols}, random)};
    c.forward = [](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(c.inputs[0].shape);
      k.add_bias(c.inputs[0], c.inputs[1], y);
      return Values(y);
    };
    c.backward = [](const Kernels& k, Case& c, const Numbers& g,
                    std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(g, 0, c.inputs[0].shape, c.pool);
      if (!d[0].empty()) k.add(d[0], dy, d[0]);
      k.add_bias_backward(dy, d[1]);
    };
  }
};

template <>
struct OpCase<OpId::kAddScaled> {
  static void Make(Random& random, Case& c) {
    const Shape shape = {random.Int(0, 50), random.Int(1, 50)};
    const float s = random.Normal();
    c.inputs = {c.pool.Normal(shape, random)};
    if (random.Int(0, 2) != 0) c.inputs.push_back(c.pool.Normal(shape, random));
    c.forward = [s](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(c.inputs[0].shape);
      k.add_scaled(c.inputs.size() > 1 ? c.inputs[1] : Tensor{}, s,
                   c.inputs[0], y);
      return Values(y);
    };
    c.backward = [s](const Kernels& k, Case& c, const Numbers& g,
                     std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(g, 0, c.inputs[0].shape, c.pool);
      if (!d[0].empty()) k.add_scaled(d[0], s, dy, d[0]);
      if (d.size() > 1 && !d[1].empty()) k.add(d[1], dy, d[1]);
    };
  }
};

template <>
struct OpCase<OpId::kDropout> {
  static void Make(Random& random, Case& c) {
    const double rate = random.Flip() ? 0.1 : 0.5;
    const auto seed = static_cast<uint64_t>(random.Int(0, 1 << 30)) << 17;
    c.inputs = {
        c.pool.Normal({random.Int(0, 90), random.Int(1, 300)}, random)};
    c.forward = [=](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(c.inputs[0].shape);
      k.dropout(c.inputs[0], rate, seed, y);
      return Values(y);
    };
    c.backward = [=](const Kernels& k, Case& c, const Numbers& g,
                     std::vector<Tensor>& d) {
      k.dropout_backward(FromNumbers(g, 0, c.inputs[0].shape, c.pool), rate,
                         seed, d[0]);
    };
  }
};

template <>
struct OpCase<OpId::kLayerNorm> {
  static void Make(Random& random, Case& c) {
    const int64_t rows = random.Int(0, 70), cols = random.Int(2, 80);
    c.inputs = {c.pool.Normal({rows, cols}, random),
                c.pool.Normal({cols}, random), c.pool.Normal({cols}, random)};
    if (random.Flip()) {  // a + (x + bias) in one pass
      c.inputs.push_back(c.pool.Normal({cols}, random));
      c.inputs.push_back(c.pool.Normal({rows, cols}, random));
    }
    const float level = 3 * random.Normal();  // a mean far from 0
    for (int64_t i = 0; i < rows * cols; ++i) c.inputs[0].f32()[i] += level;
    auto moments = Keep(c.pool.Zeros({rows, 2}));
    c.forward = [moments](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(c.inputs[0].shape);
      const bool whole = c.inputs.size() > 3;
      k.layer_norm(c.inputs[0], whole ? c.inputs[3] : Tensor{},
                   whole ? c.inputs[4] : Tensor{}, c.inputs[1], c.inputs[2],
                   0.3f, y, *moments);
      return Values(y);
    };
    c.backward = [moments](const Kernels& k, Case& c, const Numbers& g,
                           std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(g, 0, c.inputs[0].shape, c.pool);
      if (c.inputs.size() == 3) {
        k.layer_norm_backward(c.inputs[0], c.inputs[1], *moments, dy, d[0],
                              d[1], d[2]);
        return;
      }
      const Tensor sum = c.pool.Zeros(dy.shape), dsum = c.pool.Zeros(dy.shape);
      k.add_bias(c.inputs[0], c.inputs[3], sum);
      k.add(c.inputs[4], sum, sum);
      k.layer_norm_backward(sum, c.inputs[1], *moments, dy, dsum, d[1], d[2]);
      k.add_bias_backward(dsum, d[3]);
      for (size_t i : {0, 4}) {
        if (!d[i].empty()) k.add(d[i], dsum, d[i]);
      }
    };
  }
};

template <>
struct OpCase<OpId::kNormalise> {
  static void Make(Random& random, Case& c) {
    c.inputs = {
        c.pool.Normal({random.Int(0, 70), random.Int(4, 80)}, random)};
    c.forward = [](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(c.inputs[0].shape);
      k.normalise(c.inputs[0], y);
      return Values(y);
    };
    c.backward = [](const Kernels& k, Case& c, const Numbers& g,
                    std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(g, 0, c.inputs[0].shape, c.pool);
      k.normalise_backward(c.inputs[0], dy, d[0]);
    };
  }
};

template <>
struct OpCase<OpId::kGelu> {
  static void Make(Random& random, Case& c) {
    c.inputs = {
        c.pool.Normal({random.Int(0, 60), random.Int(1, 300)}, random, 3)};
    if (random.Flip()) {
      c.inputs.push_back(c.pool.Normal({c.inputs[0].cols()}, random));
    }
    c.forward = [](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(c.inputs[0].shape);
      k.gelu(c.inputs[0], c.inputs.size() > 1 ? c.inputs[1] : Tensor{}, y);
      return Values(y);
    };
    c.backward = [](const Kernels& k, Case& c, const Numbers& g,
                    std::vector<Tensor>& d) {
      const Tensor dy = FromNumbers(g, 0, c.inputs[0].shape, c.pool);
      if (c.inputs.size() == 1) {
        k.gelu_backward(c.inputs[0], dy, d[0]);
        return;
      }
      const Tensor sum = c.pool.Zeros(dy.shape), dsum = c.pool.Zeros(dy.shape);
      k.add_bias(c.inputs[0], c.inputs[1], sum);
      k.gelu_backward(sum, dy, dsum);
      if (!d[0].empty()) k.add(d[0], dsum, d[0]);
      k.add_bias_backward(dsum, d[1]);
    };
  }
};

template <>
struct OpCase<OpId::kMeanPool> {
  static void Make(Random& random, Case& c) {
    const int64_t cols = random.Int(1, 80);
    auto segments = Keep(std::vector<Segment>());
    int64_t rows = 0;
    for (int64_t i = random.Int(1, 6); i > 0; --i) {
      segments->push_back({rows, random.Int(0, 30)});
      rows += segments->back().rows;
    }
    c.inputs = {c.pool.Normal({rows, cols}, random)};
    const Shape shape = {static_cast<int64_t>(segments->size()), cols};
    c.forward = [=](const Kernels& k, Case& c) {
      Tensor y = c.pool.Zeros(shape);
      k.mean_pool(c.inputs[0], *segments, y);
      return Values(y);
    };
    c.backward = [=](const Kernels& k, Case& c, const Numbers& g,
                     std::vector<Tensor>& d) {
      k.mean_pool_backward(*segments, FromNumbers(g, 0, shape, c.pool), d[0]);
    };
  }
};

}  // namespace motet::math
