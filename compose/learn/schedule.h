// SPDX-License-Identifier: Apache-2.0
// The learning rate of each step: linear warm-up, then half a cosine.
#pragma once

#include <cstdint>

namespace motet::learn {

struct Schedule {
  int64_t steps = 0;
  int64_t warmup_steps = 0;
  double peak = 0;             // learning rate
  double final_fraction = 0.1;  // of peak, at the last step
};

// Of step `step`, counted from 1:
//   step <= warmup:  peak * step / warmup
//   else:            peak * (f + (1 - f) * (1 + cos(pi * u)) / 2),
//                    u = (step - warmup) / (steps - warmup)
// so the first step has peak / warmup and the last one final_fraction * peak.
double LearningRate(const Schedule& schedule, int64_t step);

}  // namespace motet::learn
