// SPDX-License-Identifier: Apache-2.0
// The learning rate of each step: linear warm-up, then one of the shapes of
// the table below. A pure function of the step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace motet::learn {

// u = (step - warmup) / (steps - warmup), above 0, 1 at the last step; f the
// final fraction; d the decay fraction.
// MOTET_SCHEDULES(X): X(Name, "name", formula of rate / peak)
#define MOTET_SCHEDULES(X)                                                    \
  X(Cosine, "cosine", f + (1 - f) * 0.5 * (1 + std::cos(std::numbers::pi * u))) \
  X(Linear, "linear", f + (1 - f) * (1 - u))                                  \
  X(Constant, "constant", 1.0)                                                \
  X(WarmupStableDecay, "warmup-stable-decay",                                 \
    u <= 1 - d ? 1.0 : f + (1 - f) * (1 - u) / d)

enum class ScheduleShape : uint8_t {
#define MOTET_SHAPE(name, ...) k##name,
  MOTET_SCHEDULES(MOTET_SHAPE)
#undef MOTET_SHAPE
};
const char* Name(ScheduleShape shape);
std::vector<std::string> ScheduleNames();
// false: no such name; *shape is as it was.
bool FindSchedule(absl::string_view name, ScheduleShape* shape);

struct Schedule {
  int64_t steps = 0;
  int64_t warmup_steps = 0;
  double peak = 0;             // learning rate
  double final_fraction = 0.1;  // of peak, at the last step
  ScheduleShape shape = ScheduleShape::kCosine;
  double decay_fraction = 0.2;  // of the steps after the warm-up
};

// Where nobody said: a tenth of the steps, at most 20.
int64_t DefaultWarmupSteps(int64_t steps);

// Of step `step`, counted from 1:
//   step <= warmup:  peak * step / warmup       else:  peak * shape(u)
// so the first step has peak / warmup and, but for "constant", the last one
// final_fraction * peak.
double LearningRate(const Schedule& schedule, int64_t step);

}  // namespace motet::learn
