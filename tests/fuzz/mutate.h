// SPDX-License-Identifier: Apache-2.0
// Deterministic mutation of seeds: no coverage, no clock, the same inputs on
// every machine. What libFuzzer does better is behind -DMOTET_FUZZ=ON; this
// runs in every test run.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace motet::fuzz {

struct Corpus {
  std::vector<std::string> seeds;
  std::vector<std::string> words;  // pieces of the format
  // Makes a mutated input plausible again (a length, a digest); may be null.
  // Applied to half of the inputs.
  std::function<void(std::string&)> repair;
};

// Calls target for `executions` mutated inputs; MOTET_FUZZ_RUNS in the
// environment overrides the number. Returns how many were taken.
int64_t RunMutated(const Corpus& corpus, int64_t executions, uint64_t seed,
            const std::function<bool(const std::string&)>& target);

}  // namespace motet::fuzz
