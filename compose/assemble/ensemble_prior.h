// SPDX-License-Identifier: Apache-2.0
// The cached prior of an ensemble [HDEE; METHODS 4]: which of its models the
// text to come is like, learnt from held-out text before anything is served.
// A lock keeps what each model, by itself, makes of each sequence, and every
// expert set's prior is learnt anew from its own models' numbers: so it is, to
// the bit, the prior of the set composed alone.
#pragma once

#include <vector>

#include "compose/math/operators.h"
#include "lock.pb.h"

namespace motet::assemble {

// Sequences of the text that a prior is learnt from, at most, and tokens of
// each.
inline constexpr int kPriorSequences = 100;
inline constexpr int kPriorTokens = 256;

// p(j) of the models of a set, the base first where it is one of them:
//   post_s = softmax_j(ln p(x_s | j))      from all alike
//   prior_s = rate post_s + (1 - rate) prior_{s-1},   prior_0 all alike
std::vector<double> PriorOf(const v1::PriorLock& prior, math::ExpertMask set);

}  // namespace motet::assemble
