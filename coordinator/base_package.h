// SPDX-License-Identifier: Apache-2.0
// Writes the base as a signed package (docs/package.md): weights, config,
// tokenizer, anchor statistics, public text.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "compose/learn/statistics.h"
#include "compose/model/decoder.h"
#include "coordinator/federation.h"
#include "manifest.pb.h"

namespace motet::coordinator {

struct BasePackage {
  std::string id;
  std::string tokenizer_json;
  std::vector<std::string> public_documents;
  v1::TrainingRecord training;
  int64_t anchor_tokens = 0;  // that the anchor's statistics are of
  std::string spdx = "LicenseRef-federation-public";
  std::string origin;  // for README.md: "- trained on …"
};
// The folder appears whole or not at all. Weights keep their dtype.
absl::Status WriteBasePackage(const Federation& federation,
                              const std::string& folder,
                              const BasePackage& base,
                              const model::ModelConfig& config,
                              const model::ModelWeights& weights,
                              const std::vector<learn::AnchorLayer>& anchor);

// A federation has one base: AlreadyExists when there is one.
absl::Status CheckNoBase(const Federation& federation,
                         const std::string& command);

// Documents of about max_bytes in all, chosen evenly by a seeded shuffle.
std::vector<std::string> SampleDocuments(
    const std::vector<std::string>& documents, int64_t max_bytes,
    uint64_t seed);

}  // namespace motet::coordinator
