// SPDX-License-Identifier: Apache-2.0
// The kinds of method merge, one row each: the recipe's word, which options
// it has, and what its weights must be. Recipe, plan, lock and the merge
// itself read this one table.
#pragma once

#include <string>
#include <vector>

#include "compose/assemble/merge.h"
#include "lock.pb.h"

namespace motet::assemble {

struct MergeKindRow {
  const char* name;
  MergeKind kind;
  bool lambda, density, ratio, epsilon, t, seed;
  // None: options it does not have. Needed: must be given and sum to 1.
  // Positive: shares of a mean. Any: factors of task vectors, 0 excepted.
  enum Weights { kNone, kNeeded, kPositive, kAny } weights;
};
const std::vector<MergeKindRow>& MergeKinds();
const MergeKindRow* FindMergeKind(const std::string& name);

// Defaults where the recipe is silent.
inline constexpr double kTiesDensity = 0.2;
inline constexpr double kDareDensity = 0.5;
inline constexpr double kPcbRatio = 0.1;
inline constexpr double kPcbEpsilon = 1e-4;
inline constexpr double kWeightSumTolerance = 1e-6;

// The rule for exactly the lock's experts: equal weights where it has none,
// means' weights scaled to sum to 1. So the rule of a lock without an expert
// is that of a recipe that never named it.
MergeRule RuleOf(const v1::CompositionLock& lock);

}  // namespace motet::assemble
