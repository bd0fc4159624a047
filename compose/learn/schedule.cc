// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace motet::learn {
namespace {

struct Row {
  const char* name;
  double (*share)(double u, double f, double d);
};
constexpr Row kRows[] = {
#define MOTET_ROW(shape, name, formula)                            \
  {name, [](double u, [[maybe_unused]] double f,                   \
            [[maybe_unused]] double d) -> double { (void)u; return formula; }},
    MOTET_SCHEDULES(MOTET_ROW)
#undef MOTET_ROW
};

}  // namespace

const char* Name(ScheduleShape shape) {
  return kRows[static_cast<size_t>(shape)].name;
}

std::vector<std::string> ScheduleNames() {
  std::vector<std::string> names;
  for (const Row& row : kRows) names.push_back(row.name);
  return names;
}

bool FindSchedule(absl::string_view name, ScheduleShape* shape) {
  for (size_t i = 0; i < std::size(kRows); ++i) {
    if (name != kRows[i].name) continue;
    *shape = static_cast<ScheduleShape>(i);
    return true;
  }
  return false;
}

int64_t DefaultWarmupSteps(int64_t steps) {
  return std::clamp<int64_t>(steps / 10, 0, 20);
}

double LearningRate(const Schedule& s, int64_t step) {
  if (step <= s.warmup_steps) {
    return s.peak * static_cast<double>(step) /
           static_cast<double>(s.warmup_steps);
  }
  const int64_t rest = std::max<int64_t>(1, s.steps - s.warmup_steps);
  const double u = std::min(
      1.0, static_cast<double>(step - s.warmup_steps) /
               static_cast<double>(rest));
  return s.peak * kRows[static_cast<size_t>(s.shape)].share(
                      u, s.final_fraction, s.decay_fraction);
}

}  // namespace motet::learn
