// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/optimizer.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace motet::learn {
namespace {

constexpr int64_t kBlock = 1 << 14;

double SumOfSquares(const float* x, int64_t n) {
  double lane[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; ++j) {
      const double value = x[i + j];
      lane[j] += value * value;
    }
  }
  for (; i < n; ++i) lane[0] += static_cast<double>(x[i]) * x[i];
  return ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
         ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

}  // namespace

Optimizer::Optimizer(std::vector<Parameter> parameters, Tape& tape,
                     float beta2)
    : beta2_(beta2) {
  for (Parameter& p : parameters) {
    tape.Watch(p.watched);
    Item item;
    item.gradient = tape.Gradient(p.value);
    MOTET_CHECK(!item.gradient.empty());
    item.m = item.v = p.value;
    for (math::Tensor* moment : {&item.m, &item.v}) {
      storage_.push_back(
          std::make_unique<float[]>(static_cast<size_t>(p.value.size())));
      moment->data = storage_.back().get();
    }
    item.parameter = std::move(p);
    items_.push_back(std::move(item));
  }
}

double Optimizer::GradientNorm() const {
  double total = 0;
  std::vector<double> partial;
  for (const Item& item : items_) {
    const int64_t n = item.gradient.size();
    const float* g = item.gradient.f32();
    const int64_t blocks = (n + kBlock - 1) / kBlock;
    partial.assign(static_cast<size_t>(blocks), 0);
#pragma omp parallel for if (blocks > 4)
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * kBlock;
      partial[static_cast<size_t>(b)] =
          SumOfSquares(g + first, std::min(kBlock, n - first));
    }
    for (double p : partial) total += p;
  }
  return std::sqrt(total);
}

void Optimizer::Step(const math::Kernels& kernels, double learning_rate,
                     double weight_decay, double norm, double clip) {
  ++updates_;
  math::AdamWOptions options{};
  options.learning_rate = static_cast<float>(learning_rate);
  options.beta1 = 0.9f;
  options.beta2 = beta2_;
  options.eps = 1e-8f;
  options.step = updates_;
  options.gradient_scale =
      clip > 0 ? static_cast<float>(std::min(1.0, clip / (norm + 1e-6))) : 1.0f;
  for (Item& item : items_) {
    options.weight_decay =
        item.parameter.decay ? static_cast<float>(weight_decay) : 0.0f;
    kernels.adamw(item.parameter.value, item.gradient, item.m, item.v,
                  options);
  }
}

}  // namespace motet::learn
