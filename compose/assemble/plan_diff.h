// SPDX-License-Identifier: Apache-2.0
// What a plan would change about the composition of its name: the lock there
// is against the lock there would be. Pure data, as plans are.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "compose/assemble/composition.h"

namespace motet::assemble {

struct PlanDiff {
  struct Change {
    std::string what;  // "router.k", or an expert's owner/name
    std::string from, to;
  };
  std::vector<v1::LockedExpert> added, removed;
  std::vector<Change> versions;    // experts with another version or digest
  std::vector<Change> parameters;  // method, base, router and method options
  std::string exclusion_from, exclusion_to;
  // Consequences: licences that come, go or change, the guarantee, rows.
  std::vector<std::string> notes;
  // Of weights in packages; 0 before when a package's size is not known.
  int64_t bytes_before = 0, bytes_after = 0;
  bool same() const {
    return added.empty() && removed.empty() && versions.empty() &&
           parameters.empty() && exclusion_from == exclusion_to;
  }
};
// bytes: weights of packages by manifest SHA-256, as far as they are known.
PlanDiff DiffPlan(const v1::CompositionLock& before, const Plan& plan,
                  const std::map<std::string, int64_t>& bytes);

// A licence's terms for a line: "CC-BY-4.0; not for advertising".
std::string TermsText(const v1::LicenceTerms& terms);

}  // namespace motet::assemble
