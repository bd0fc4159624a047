// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/gate.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace motet::assemble {

std::vector<float> Thresholds(const v1::AnchoredStatistics& statistics,
                              double smoothing, bool prefix_mean,
                              double quantile) {
  const double own = statistics.gate_quantile();
  if (!prefix_mean && smoothing == statistics.smoothing() &&
      (quantile == 0 || quantile == own)) {
    std::vector<float> thresholds;
    for (const v1::LayerStatistics& layer : statistics.layers()) {
      thresholds.push_back(layer.threshold());
    }
    return thresholds;
  }
  for (const v1::GateThresholds& gate : statistics.gates()) {
    if (gate.prefix_mean() == prefix_mean &&
        (prefix_mean || gate.smoothing() == smoothing) &&
        gate.quantile() == (quantile == 0 ? own : quantile)) {
      return {gate.thresholds().begin(), gate.thresholds().end()};
    }
  }
  return {};
}

std::string PublishedGates(const v1::AnchoredStatistics& statistics) {
  std::vector<std::string> all = {absl::StrCat(
      statistics.smoothing(), " at ", statistics.gate_quantile())};
  for (const v1::GateThresholds& gate : statistics.gates()) {
    std::string one = absl::StrCat(
        gate.prefix_mean() ? "\"prefix\"" : absl::StrCat(gate.smoothing()),
        " at ", gate.quantile());
    if (std::find(all.begin(), all.end(), one) == all.end()) {
      all.push_back(std::move(one));
    }
  }
  return absl::StrJoin(all, ", ");
}

}  // namespace motet::assemble
