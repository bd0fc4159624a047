// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/merge_kinds.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "compose/math/tensor.h"

namespace motet::assemble {
namespace {

// What tells models apart for dare: the same in every set, and in every
// composition that has this package.
uint64_t KeyOfExpert(const v1::LockedExpert& expert) {
  uint64_t key = 0;
  MOTET_CHECK(
      absl::SimpleHexAtoi(expert.weights_sha256().substr(0, 16), &key));
  return key;
}

}  // namespace

const std::vector<MergeKindRow>& MergeKinds() {
  using Row = MergeKindRow;
  //  lambda, density, ratio, epsilon, t, seed
  static const auto* const rows = new std::vector<Row>{
      {"linear", MergeKind::kLinear,
       false, false, false, false, false, false, Row::kNone},
      {"weighted", MergeKind::kWeighted,
       false, false, false, false, false, false, Row::kNeeded},
      {"slerp", MergeKind::kSlerp,
       false, false, false, false, true, false, Row::kNone},
      {"task_arithmetic", MergeKind::kTaskArithmetic,
       true, false, false, false, false, false, Row::kAny},
      {"ties", MergeKind::kTies,
       true, true, false, false, false, false, Row::kPositive},
      {"dare", MergeKind::kDare,
       true, true, false, false, false, true, Row::kAny},
      {"pcb", MergeKind::kPcb,
       true, false, true, true, false, false, Row::kNone},
      {"fisher", MergeKind::kFisher,
       false, false, false, false, false, false, Row::kPositive},
  };
  return *rows;
}

const MergeKindRow* FindMergeKind(const std::string& name) {
  for (const MergeKindRow& row : MergeKinds()) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

MergeRule RuleOf(const v1::CompositionLock& lock) {
  const v1::MergeLock& merge = lock.merge();
  const MergeKindRow* row = FindMergeKind(merge.kind());
  MOTET_CHECK(row != nullptr);
  MergeRule rule;
  rule.kind = row->kind;
  rule.lambda = merge.lambda();
  rule.density = merge.density();
  rule.ratio = merge.ratio();
  rule.epsilon = merge.epsilon();
  rule.t = merge.t();
  rule.seed = merge.seed();
  const int models = lock.experts_size();
  rule.weights.assign(merge.weights().begin(), merge.weights().end());
  if (rule.weights.empty()) rule.weights.assign(models, 1.0 / models);
  if (row->weights != MergeKindRow::kAny) {
    double sum = 0;
    for (const double w : rule.weights) sum += w;
    for (double& w : rule.weights) w /= sum;
  }
  for (const v1::LockedExpert& e : lock.experts()) {
    rule.keys.push_back(KeyOfExpert(e));
  }
  return rule;
}

}  // namespace motet::assemble
