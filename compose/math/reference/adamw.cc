// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "compose/math/kernels.h"

namespace motet::math::reference {

// One step of Adam with decoupled weight decay.        [arXiv 1711.05101]
//   g = gradient_scale * gradient
//   theta *= 1 - lr wd
//   m = b1 m + (1-b1) g          v = b2 v + (1-b2) g^2
//   theta -= lr / (1-b1^t) * m / (sqrt(v) / sqrt(1-b2^t) + eps)
// parameter, m, v: [n] f32 in and out.   gradient: [n] in.
// Differs from the paper: decay is scaled by the learning rate (PyTorch).
void AdamW(Tensor parameter, const Tensor& gradient, Tensor m, Tensor v,
           const AdamWOptions& options) {
  const double lr = options.learning_rate;
  const double b1 = options.beta1, b2 = options.beta2;
  const double correction1 = 1 - std::pow(b1, options.step);
  const double correction2 = std::sqrt(1 - std::pow(b2, options.step));
  for (int64_t i = 0; i < parameter.size(); ++i) {
    const double g = double{options.gradient_scale} * gradient.f32()[i];
    const double first = b1 * m.f32()[i] + (1 - b1) * g;
    const double second = b2 * v.f32()[i] + (1 - b2) * g * g;
    m.f32()[i] = static_cast<float>(first);
    v.f32()[i] = static_cast<float>(second);
    parameter.f32()[i] = static_cast<float>(
        parameter.f32()[i] * (1 - lr * options.weight_decay) -
        lr / correction1 * first /
            (std::sqrt(second) / correction2 + options.eps));
  }
}

}  // namespace motet::math::reference
