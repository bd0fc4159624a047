// SPDX-License-Identifier: Apache-2.0
// The user's wish, in TOML. Unknown keys are errors that name the key, the
// line and the keys that exist.
//   name = "demo"                 # folder under compositions/
//   method = "flexolmo"
//   experts = ["code.example/code@1.0.0", ...]  # "owner/name" = newest
//   [router]
//   kind = "anchored"             # default; or "topk"
//   k = 2                         # topk
//   smoothing = 0.8               # anchored
//   gate = true
// or, with method = "merge",
//   [merge]
//   kind = "ties"                 # linear, weighted, slerp, task_arithmetic,
//   weights = [0.5, 0.5]          # ties, dare, pcb, fisher
//   lambda = 1.0
//   density = 0.2                 # docs/methods/merge.md has them all
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace motet::assemble {

struct Recipe {
  std::string name;
  std::string method = "flexolmo";
  std::vector<std::string> experts;
  struct Router {
    std::string kind = "anchored";
    int k = 2;
    double smoothing = 0.8;
    bool gate = true;
  } router;
  // Options that are set although their kind has no use for them are for the
  // plan to refuse.
  struct Merge {
    std::string kind = "linear";
    std::vector<double> weights;  // one an expert; none = equal
    std::optional<double> lambda, density, ratio, epsilon, t;
    std::optional<uint64_t> seed;
  } merge;
};
absl::StatusOr<Recipe> ParseRecipe(const std::string& toml,
                                   const std::string& where);

}  // namespace motet::assemble
