// SPDX-License-Identifier: Apache-2.0
// Formula: reference/adamw.cc.
#include <cmath>

#include "compose/math/cpu/isa.h"
#include "compose/math/cpu/parallel.h"
#include "compose/math/kernels.h"

namespace motet::math::cpu {

void AdamW(Tensor parameter, const Tensor& gradient, Tensor m, Tensor v,
           const AdamWOptions& options) {
  const double lr = options.learning_rate;
  const double b1 = options.beta1, b2 = options.beta2;
  AdamWStep step;
  step.gradient_scale = options.gradient_scale;
  step.beta1 = options.beta1;
  step.beta2 = options.beta2;
  step.keep = static_cast<float>(1 - lr * options.weight_decay);
  step.rate = static_cast<float>(lr / (1 - std::pow(b1, options.step)));
  step.root_correction =
      static_cast<float>(1 / std::sqrt(1 - std::pow(b2, options.step)));
  step.eps = options.eps;
  ForPieces(parameter.size(), 16384, [&](int64_t b, int64_t e) {
    Active().adamw(parameter.f32() + b, gradient.f32() + b, m.f32() + b,
                   v.f32() + b, e - b, step);
  });
}

}  // namespace motet::math::cpu
