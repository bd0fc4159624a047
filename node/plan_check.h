// SPDX-License-Identifier: Apache-2.0
// What a training plan asks, checked and told. A plan comes from outside:
// every field is bounded here, once, before anything is stored or allocated.
// Consent is not decided here (node/policy.h).
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "node/policy.h"
#include "node/settings.h"
#include "training.pb.h"

namespace motet::node {

// [a-z0-9-]{1,64}: the id becomes a folder's name.
bool IsPlanId(absl::string_view id);

// Every reason why this node cannot run the plan; empty when it can.
std::vector<std::string> CheckPlan(const v1::TrainingPlan& plan,
                                   const std::string& federation,
                                   const std::string& owner);

// Tokens that the run reads at most: steps * batch_sequences *
// sequence_tokens (where a plan leaves these to the encoder, 512).
double PlanTokens(const v1::TrainingPlan& plan);
// What would leave the node: what the plan lists and what its kind
// publishes anyway, so that a plan cannot ask by silence. Sorted.
std::vector<std::string> WouldPublish(const v1::TrainingPlan& plan);
// "code.example/code@1.0.0". A plan for several owners names no expert: then
// each takes its own domain's label.
std::string PackageId(const v1::TrainingPlan& plan, const Settings& settings);

// Pilots alone: the scored adapters of this owner that the pilots go with,
// or null: none, or several and the plan does not say which.
const v1::ScoredExpert* OwnScored(const v1::TrainingPlan& plan,
                                  const std::string& owner);

// The plan in words, a fact a line, each line behind `indent`. policy: the
// owner's, whose floors and noise bear on what would leave; where it cannot
// be read, the text says that.
std::string DescribePlan(const v1::TrainingPlan& plan,
                         const Settings& settings,
                         const absl::StatusOr<Policy>& policy,
                         const std::string& indent = "  ");

// The bytes of plan.json, which manifests name by their SHA-256: proto3 JSON,
// without white space, fields in order of their numbers.
std::string PlanJson(const v1::TrainingPlan& plan);

}  // namespace motet::node
