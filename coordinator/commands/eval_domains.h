// SPDX-License-Identifier: Apache-2.0
// --domain NAME=FILE.jsonl, for the commands that measure by domain.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/measure/matrix.h"

namespace CLI {
class App;
}

namespace motet::coordinator {

struct DomainOptions {
  std::vector<std::string> domains;  // NAME=FILE
  int64_t max_bytes = 0;
};
void AddDomainOptions(CLI::App& command, DomainOptions& options);

// In their order. max_bytes cuts a domain after so many bytes of text, within
// a document in front of a character.
absl::StatusOr<std::vector<measure::Domain>> ReadDomains(
    const DomainOptions& options);

}  // namespace motet::coordinator
