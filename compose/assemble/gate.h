// SPDX-License-Identifier: Apache-2.0
// The typicality gate's thresholds of one expert, as a recipe asks for them.
#pragma once

#include <string>
#include <vector>

#include "manifest.pb.h"

namespace motet::assemble {

// One a layer; empty when the owner did not publish them. quantile 0: at the
// quantile that the owner's plan chose.
std::vector<float> Thresholds(const v1::AnchoredStatistics& statistics,
                              double smoothing, bool prefix_mean,
                              double quantile);
// "0.8 at 0.97, "prefix" at 0.9": what was published, each once.
std::string PublishedGates(const v1::AnchoredStatistics& statistics);

}  // namespace motet::assemble
