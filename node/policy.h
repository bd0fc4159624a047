// SPDX-License-Identifier: Apache-2.0
// The owner's policy.toml: which plans may run without asking, and under
// which terms experts are published. A plan and the policy enter, a decision
// with all its reasons leaves. Nothing is approved that the file does not
// name; nothing is refused here either: what is not approved waits for the
// owner.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "manifest.pb.h"
#include "training.pb.h"

namespace motet::node {

struct Policy {
  // [approve]: all must hold. methods and publish empty: nothing is approved.
  std::vector<std::string> methods;
  std::vector<std::string> publish;
  std::vector<std::string> only_from;  // SPIFFE ids; empty = any coordinator
  int64_t max_steps = 0;               // 0 = no limit
  int64_t max_tokens = 0;              // 0 = no limit
  double min_public_fraction = 0;
  // [licence]
  v1::LicenceTerms licence;
  // [statistics]
  int64_t min_documents = 20;  // behind published means
  // On published means, in standard deviations of public text's router inputs
  // in every direction; 0 = none.
  double noise = 0;
  // [pilots]
  int64_t min_queries = 20;  // behind a published pilot; smaller groups stay
  double pilot_noise = 0;    // on every number of one, standard deviation
};

absl::StatusOr<Policy> ParsePolicy(const std::string& text,
                                   const std::string& where);
// DIR/policy.toml; a missing file is the policy that approves nothing.
absl::StatusOr<Policy> LoadPolicy(const std::string& dir);
// What `motet-node init` writes: every key, explained, most commented out.
std::string PolicyTemplate(const std::string& federation);

// Why a plan's package would hold the means that the policy's noise is to
// hide; "" where it would not.
std::string NotHidden(const Policy& policy, const v1::TrainingPlan& plan);

struct Decision {
  bool approved = false;
  std::vector<std::string> reasons;  // why not; empty when approved
};
// from: the authenticated peer that sent the plan. The plan has passed
// CheckPlan.
Decision Decide(const Policy& policy, const v1::TrainingPlan& plan,
                const std::string& from);

}  // namespace motet::node
