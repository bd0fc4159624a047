// SPDX-License-Identifier: Apache-2.0
#include "compose/learn/spikes.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace motet::learn {
namespace {

constexpr double kFloor = 0.01;  // of the mean, as a least deviation

}  // namespace

bool SpikeDetector::IsSpike(double loss) const {
  const int64_t count = std::ssize(losses_);
  if (sigma_ <= 0 || count < std::max<int64_t>(2, window_ / 2)) return false;
  double mean = 0, square = 0;
  for (double l : losses_) mean += l;
  mean /= static_cast<double>(count);
  for (double l : losses_) square += (l - mean) * (l - mean);
  const double deviation = std::sqrt(square / static_cast<double>(count));
  return loss >
         mean + sigma_ * std::max(deviation, kFloor * std::abs(mean));
}

void SpikeDetector::Add(double loss) {
  losses_.push_back(loss);
  if (std::ssize(losses_) > window_) losses_.erase(losses_.begin());
}

}  // namespace motet::learn
