// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/gate.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace motet::assemble {

std::vector<float> Thresholds(const v1::AnchoredStatistics& statistics,
                              const Gate& gate) {
  const double own = statistics.gate_quantile();
  if (!gate.prefix_mean && gate.rank == 0 &&
      gate.smoothing == statistics.smoothing() &&
      (gate.quantile == 0 || gate.quantile == own)) {
    std::vector<float> thresholds;
    for (const v1::LayerStatistics& layer : statistics.layers()) {
      thresholds.push_back(layer.threshold());
    }
    return thresholds;
  }
  for (const v1::GateThresholds& g : statistics.gates()) {
    if (g.prefix_mean() == gate.prefix_mean && g.rank() == gate.rank &&
        (gate.prefix_mean || g.smoothing() == gate.smoothing) &&
        g.quantile() == (gate.quantile == 0 ? own : gate.quantile)) {
      return {g.thresholds().begin(), g.thresholds().end()};
    }
  }
  return {};
}

std::string PublishedGates(const v1::AnchoredStatistics& statistics) {
  std::map<uint32_t, std::vector<std::string>> all;  // by rank
  all[0] = {absl::StrCat(statistics.smoothing(), " at ",
                         statistics.gate_quantile())};
  for (const v1::GateThresholds& gate : statistics.gates()) {
    std::string one = absl::StrCat(
        gate.prefix_mean() ? "\"prefix\"" : absl::StrCat(gate.smoothing()),
        " at ", gate.quantile());
    std::vector<std::string>& of = all[gate.rank()];
    if (std::find(of.begin(), of.end(), one) == of.end()) {
      of.push_back(std::move(one));
    }
  }
  std::string text;
  for (const auto& [rank, gates] : all) {
    if (rank > 0) absl::StrAppend(&text, "; of rank ", rank, ": ");
    absl::StrAppend(&text, absl::StrJoin(gates, ", "));
  }
  return text;
}

}  // namespace motet::assemble
