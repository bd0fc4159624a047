// SPDX-License-Identifier: Apache-2.0
// The normalizer of a tokenizer.json: text in, the text that the model was
// made for out. Known: NFC, NFD, Lowercase, BertNormalizer, and sequences of
// these. Anything else is refused by name.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json_fwd.hpp"

namespace motet::model {

// Immutable, shared by threads.
class Normalizer {
 public:
  // null gives one that changes nothing.
  static absl::StatusOr<Normalizer> Parse(const nlohmann::json& part);

  bool empty() const { return steps_.empty(); }
  // Changes valid UTF-8 in place.
  void Normalize(std::string& text) const;

 private:
  struct Step {
    bool nfc = false, nfd = false, lower = false;
    // BertNormalizer's, in this order, before `lower`.
    bool clean = false, chinese = false, accents = false;
  };
  absl::Status Add(const nlohmann::json& part, int depth);
  absl::Status AddBert(const nlohmann::json& part);

  std::vector<Step> steps_;
};

}  // namespace motet::model
