// SPDX-License-Identifier: Apache-2.0
// What a table of routers is made of, measured: every query of every set by
// the base and by each adapter, ranked exactly, scored by nDCG@10.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/measure/router_table.h"
#include "compose/model/encoder_weights.h"
#include "compose/retrieve/beir.h"
#include "compose/retrieve/text_encoder.h"

namespace motet::measure {

struct SetSource {
  std::string name;
  std::string folder;  // in BEIR layout: qrels/test.tsv, and where it is an
                       // owner's, qrels/train.tsv
  int expert = -1;     // as RoutedSet's
};
struct RouterSetOptions {
  int64_t max_train = 0;  // queries of each owner, drawn by seed; 0 = all
  uint64_t seed = 1;
  std::string cache;      // of document vectors (adapter_data.h); may be empty
  std::function<void(double fraction, const std::string& detail)> progress;
};
// loras: the experts, then the further adapters. All texts go through the
// base; queries through every adapter as well.
absl::StatusOr<std::vector<RoutedSet>> MeasureSets(
    const retrieve::TextEncoder& base,
    const std::vector<const model::Lora*>& loras,
    const std::vector<SetSource>& sources, const RouterSetOptions& options);

}  // namespace motet::measure
