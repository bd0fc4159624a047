// SPDX-License-Identifier: Apache-2.0
// The typicality gate's thresholds of one expert, as a recipe asks for them.
#pragma once

#include <string>
#include <vector>

#include "manifest.pb.h"

namespace motet::assemble {

// What tells gates apart. quantile 0: the one that the owner's plan chose.
// rank: of the metric; 0 = full.
struct Gate {
  double smoothing = 0;
  bool prefix_mean = false;
  double quantile = 0;
  int64_t rank = 0;
};
// One a layer; empty when the owner did not publish them.
std::vector<float> Thresholds(const v1::AnchoredStatistics& statistics,
                              const Gate& gate);
// "0.8 at 0.97, "prefix" at 0.9; of rank 8: 0.8 at 0.97": what was published,
// each once.
std::string PublishedGates(const v1::AnchoredStatistics& statistics);

}  // namespace motet::assemble
