// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace motet::learn {

double LearningRate(const Schedule& s, int64_t step) {
  if (step <= s.warmup_steps) {
    return s.peak * static_cast<double>(step) /
           static_cast<double>(s.warmup_steps);
  }
  const int64_t rest = std::max<int64_t>(1, s.steps - s.warmup_steps);
  const double u = std::min(
      1.0, static_cast<double>(step - s.warmup_steps) /
               static_cast<double>(rest));
  const double f = s.final_fraction;
  return s.peak * (f + (1 - f) * 0.5 * (1 + std::cos(std::numbers::pi * u)));
}

}  // namespace motet::learn
