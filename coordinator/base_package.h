// SPDX-License-Identifier: Apache-2.0
// Writes the base as a signed package (docs/package.md): weights, config,
// tokenizer, anchor statistics, public text.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "compose/learn/statistics.h"
#include "compose/learn/trainer.h"
#include "coordinator/federation.h"

namespace motet::coordinator {

struct BasePackage {
  std::string id;
  std::string tokenizer_json;
  std::vector<std::string> public_documents;
};
// The folder appears whole or not at all.
absl::Status WriteBasePackage(const Federation& federation,
                              const std::string& folder,
                              const BasePackage& base,
                              const learn::OwnedModel& model,
                              const std::vector<learn::AnchorLayer>& anchor,
                              const learn::TrainOptions& options,
                              const learn::TrainResult& result);

// Documents of about max_bytes in all, chosen evenly by a seeded shuffle.
std::vector<std::string> SampleDocuments(
    const std::vector<std::string>& documents, int64_t max_bytes,
    uint64_t seed);

}  // namespace motet::coordinator
