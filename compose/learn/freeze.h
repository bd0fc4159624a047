// SPDX-License-Identifier: Apache-2.0
// Freezing by name: parameters that match a pattern are taken off the list of
// what is trained. What is not on the list is not watched by the tape, so no
// gradient, moment or product is spent on it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "compose/learn/optimizer.h"

namespace motet::learn {

// '*' is any run of characters, '?' one; everything else is itself.
bool Matches(absl::string_view pattern, absl::string_view name);

// The parameters that no pattern matches. An error names every pattern that
// matches nothing (a misspelt one would train what was to be kept), and a
// list that leaves nothing to train.
absl::StatusOr<std::vector<Parameter>> WithoutFrozen(
    std::vector<Parameter> parameters,
    const std::vector<std::string>& patterns);

}  // namespace motet::learn
