// SPDX-License-Identifier: Apache-2.0
// The plan of method merge: whole models of one base become one. What is
// checked here from manifests is checked again from the files when the
// weights are made (merge_method.cc).
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/merge_kinds.h"
#include "compose/assemble/method.h"
#include "compose/assemble/plan_parts.h"
#include "compose/package/manifest_dense.h"
#include "compose/package/manifest_kinds.h"

namespace motet::assemble {
namespace {

std::string KindNames() {
  std::vector<std::string> names;
  for (const MergeKindRow& row : MergeKinds()) names.emplace_back(row.name);
  return absl::StrJoin(names, ", ");
}

void CheckOptions(const Recipe::Merge& merge, const MergeKindRow& row,
                  Problems& problems) {
  const auto has = [&](const char* option, bool given, bool known) {
    if (!given || known) return;
    problems.Add("recipe", absl::StrCat("got merge.", option,
                                        ", want none: kind \"", row.name,
                                        "\" has no use for it; remove it"));
  };
  has("lambda", merge.lambda.has_value(), row.lambda);
  has("density", merge.density.has_value(), row.density);
  has("ratio", merge.ratio.has_value(), row.ratio);
  has("epsilon", merge.epsilon.has_value(), row.epsilon);
  has("t", merge.t.has_value(), row.t);
  has("seed", merge.seed.has_value(), row.seed);
  has("weights", !merge.weights.empty(), row.weights != MergeKindRow::kNone);
  const auto share = [&](const char* option, const std::optional<double>& v,
                         bool known, double most, bool zero) {
    if (!v || !known || (*v <= most && (zero ? *v >= 0 : *v > 0))) return;
    problems.Add("recipe", absl::StrCat("got merge.", option, " = ", *v,
                                        ", want a number ",
                                        zero ? "from 0" : "above 0", " to ",
                                        most));
  };
  share("density", merge.density, row.density, 1, false);
  share("ratio", merge.ratio, row.ratio, 1, false);
  share("epsilon", merge.epsilon, row.epsilon, 0.5, true);
  share("t", merge.t, row.t, 1, true);
}

void CheckWeights(const Recipe::Merge& merge, const MergeKindRow& row,
                  size_t experts, Problems& problems) {
  const std::vector<double>& weights = merge.weights;
  if (row.weights == MergeKindRow::kNone) return;
  if (weights.empty()) {
    if (row.weights != MergeKindRow::kNeeded) return;
    problems.Add("recipe", absl::StrCat("got no merge.weights, want one an "
                                        "expert for kind \"", row.name,
                                        "\"; kind \"linear\" is the plain "
                                        "mean"));
    return;
  }
  if (weights.size() != experts) {
    problems.Add("recipe", absl::StrCat("got ", weights.size(),
                                        " merge.weights, want one for each "
                                        "of ", experts, " experts"));
  }
  double sum = 0;
  for (const double w : weights) {
    sum += w;
    if (row.weights == MergeKindRow::kAny ? w != 0 : w > 0) continue;
    problems.Add("recipe",
                 absl::StrCat("got merge.weights with ", w, ", want ",
                              row.weights == MergeKindRow::kAny
                                  ? "numbers other than 0"
                                  : "numbers above 0",
                              "; leave an expert out to give it none"));
  }
  if (row.weights == MergeKindRow::kNeeded &&
      std::abs(sum - 1) > kWeightSumTolerance) {
    problems.Add("recipe",
                 absl::StrFormat("got merge.weights that sum to %.9g, want 1",
                                 sum));
  }
}

void CheckExpert(const Part& part, const Part& base, const MergeKindRow* row,
                 Problems& problems) {
  const v1::ExpertManifest& m = part.manifest;
  if (!package::IsWhole(m.kind())) {
    problems.Add(m.id(), absl::StrCat("got kind \"", m.kind(),
                                      "\", want \"dense\" for method merge: "
                                      "a merge takes whole models"));
    return;
  }
  CheckBranch(part, base, problems);
  problems.Same(m.id(), "FFN width", absl::StrCat(m.model().ffn_width()),
                absl::StrCat(base.manifest.model().ffn_width()), "");
  CheckItself(m, problems);
  for (const std::string& reason :
       package::CheckDense(m, base.manifest)) {
    problems.Add(m.id(), "got a model whose " + reason);
  }
  if (row != nullptr && row->kind == MergeKind::kFisher &&
      FileSha256(m, package::kFisherFile).empty()) {
    problems.Add(m.id(), absl::StrCat("got no ", package::kFisherFile,
                                      ", want the model's Fisher information "
                                      "for kind \"fisher\"; import it again "
                                      "with --fisher, or choose another "
                                      "kind"));
  }
}

v1::MergeLock MergeLockOf(const Recipe::Merge& merge,
                          const MergeKindRow& row) {
  v1::MergeLock lock;
  lock.set_kind(row.name);
  if (row.weights != MergeKindRow::kNone) {
    for (const double w : merge.weights) lock.add_weights(w);
  }
  const bool dare = row.kind == MergeKind::kDare;
  if (row.lambda) lock.set_lambda(merge.lambda.value_or(1));
  if (row.density) {
    lock.set_density(
        merge.density.value_or(dare ? kDareDensity : kTiesDensity));
  }
  if (row.ratio) lock.set_ratio(merge.ratio.value_or(kPcbRatio));
  if (row.epsilon) lock.set_epsilon(merge.epsilon.value_or(kPcbEpsilon));
  if (row.t) lock.set_t(merge.t.value_or(0.5));
  if (row.seed) lock.set_seed(merge.seed.value_or(0));
  return lock;
}

int64_t ElementBytes(const std::string& dtype) {
  return dtype == "F32" ? 4 : 2;
}

// Bytes of the merged weights: each tensor in the models' dtype, F32 where
// they differ, as MergedDType has it.
int64_t MergedBytes(const Part& base, const std::vector<Part>& experts) {
  std::map<std::string, std::string> dtypes;
  for (const Part& part : experts) {
    for (const auto* table :
         {&part.manifest.tensors(), &part.manifest.base_tensors()}) {
      for (const v1::TensorDigest& t : *table) {
        const auto [it, first] = dtypes.emplace(t.name(), t.dtype());
        if (!first && it->second != t.dtype()) it->second = "F32";
      }
    }
  }
  int64_t bytes = 0;
  for (const v1::TensorDigest& t : base.manifest.tensors()) {
    const auto it = dtypes.find(t.name());
    bytes += Elements(t) *
             ElementBytes(it == dtypes.end() ? t.dtype() : it->second);
  }
  return bytes;
}

}  // namespace

Plan PlanMerge(const Recipe& recipe, const Part& base,
               const std::vector<Part>& experts) {
  Plan plan;
  Problems problems(plan.problems);
  const MergeKindRow* row = FindMergeKind(recipe.merge.kind);
  if (row == nullptr) {
    problems.Add("recipe", absl::StrCat("got merge.kind \"", recipe.merge.kind,
                                        "\", want one of ", KindNames()));
  } else {
    CheckOptions(recipe.merge, *row, problems);
    CheckWeights(recipe.merge, *row, experts.size(), problems);
    if (row->kind == MergeKind::kSlerp && experts.size() != 2) {
      problems.Add("recipe", absl::StrCat("got ", experts.size(),
                                          " experts, want 2 for kind "
                                          "\"slerp\""));
    }
  }
  if (experts.empty()) {
    problems.Add("recipe", "got no experts, want at least one to merge");
  }
  CheckNames(recipe, experts, problems);
  CheckBase(base, problems);
  for (const Part& part : experts) CheckExpert(part, base, row, problems);

  plan.lock = LockOf(recipe, base, experts);
  plan.lock.set_exclusion("exact");
  if (row != nullptr) {
    *plan.lock.mutable_merge() = MergeLockOf(recipe.merge, *row);
  }
  plan.notes = {
      "exclusion: exact. A query without an expert is answered by weights "
      "merged again from the other packages, as if it had never been there; "
      "they are made when first asked for and kept in memory while there is "
      "room (--merge-memory)"};
  AddNotes(base, experts, /*exact=*/true, plan.notes);
  plan.parameters = Parameters(base.manifest, "");
  plan.active_parameters = plan.parameters;
  plan.referenced_bytes = FileBytes(base.manifest, "weights.safetensors");
  for (const Part& part : experts) {
    plan.referenced_bytes += FileBytes(part.manifest, "weights.safetensors");
  }
  plan.new_bytes = static_cast<int64_t>(WriteLock(plan.lock).size()) +
                   MergedBytes(base, experts);
  return plan;
}

void CheckMergeLock(const v1::CompositionLock& lock,
                    std::vector<std::string>& problems) {
  const v1::MergeLock& merge = lock.merge();
  const auto check = [&](bool good, const std::string& problem) {
    if (!good) problems.push_back(problem);
  };
  const MergeKindRow* row = FindMergeKind(merge.kind());
  check(row != nullptr, absl::StrCat("merge.kind = \"", merge.kind(),
                                     "\" (want one of ", KindNames(), ")"));
  if (row == nullptr) return;
  check(merge.weights_size() == 0 ||
            merge.weights_size() == lock.experts_size(),
        absl::StrCat(merge.weights_size(), " merge.weights (want none or ",
                     lock.experts_size(), ")"));
  for (const double w : merge.weights()) {
    check(std::isfinite(w) &&
              (row->weights == MergeKindRow::kAny ? w != 0 : w > 0),
          absl::StrCat("merge.weights with ", w));
  }
  const auto share = [&](const char* name, bool used, double value) {
    check(!used || (value > 0 && value <= 1),
          absl::StrCat("merge.", name, " = ", value,
                       " (want above 0 to 1)"));
  };
  share("density", row->density, merge.density());
  share("ratio", row->ratio, merge.ratio());
  check(merge.epsilon() >= 0 && merge.epsilon() <= 0.5,
        absl::StrCat("merge.epsilon = ", merge.epsilon(),
                     " (want 0 to 0.5)"));
  check(merge.t() >= 0 && merge.t() <= 1,
        absl::StrCat("merge.t = ", merge.t(), " (want 0 to 1)"));
  check(std::isfinite(merge.lambda()),
        absl::StrCat("merge.lambda = ", merge.lambda()));
}

}  // namespace motet::assemble
