// SPDX-License-Identifier: Apache-2.0
// What a training plan asks, checked and told. A plan comes from outside:
// every field is bounded here, once, before anything is stored or allocated.
// Consent is not decided here (node/policy.h).
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "node/settings.h"
#include "training.pb.h"

namespace motet::node {

// [a-z0-9-]{1,64}: the id becomes a folder's name.
bool IsPlanId(absl::string_view id);

// Every reason why this node cannot run the plan; empty when it can.
std::vector<std::string> CheckPlan(const v1::TrainingPlan& plan,
                                   const std::string& federation,
                                   const std::string& owner);

// Tokens that the run reads: steps * batch_sequences * sequence_tokens.
double PlanTokens(const v1::TrainingPlan& plan);
// What would leave the node: what the plan lists and what its kind
// publishes anyway, so that a plan cannot ask by silence. Sorted.
std::vector<std::string> WouldPublish(const v1::TrainingPlan& plan);
// "code.example/code@1.0.0". A plan for several owners names no expert: then
// each takes its own domain's label.
std::string PackageId(const v1::TrainingPlan& plan, const Settings& settings);

// The plan in words, a fact a line, each line behind `indent`. noise: of the
// owner's policy, on the means that would leave.
std::string DescribePlan(const v1::TrainingPlan& plan,
                         const Settings& settings, double noise = 0,
                         const std::string& indent = "  ");

// The bytes of plan.json, which manifests name by their SHA-256: proto3 JSON,
// without white space, fields in order of their numbers.
std::string PlanJson(const v1::TrainingPlan& plan);

}  // namespace motet::node
