// SPDX-License-Identifier: Apache-2.0
// The plan of method flexolmo: recipe and manifests in, plan out. What is
// checked here from manifests is checked again from the files when a
// composition is loaded (flexolmo.cc).
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/method.h"
#include "compose/assemble/plan_parts.h"
#include "compose/package/package_folder.h"

namespace motet::assemble {
namespace {

using v1::ExpertManifest;

// lambda of METHODS 11 as a share of the mean diagonal of Sigma_0, with which
// `motet base train` makes the precision in the base's anchor.safetensors.
constexpr double kAnchorRidge = 1e-2;

void CheckExpert(const Part& part, const Part& base, Problems& problems) {
  const ExpertManifest& m = part.manifest;
  const std::string& where = m.id();
  if (m.kind() != "ffn") {
    problems.Add(where, absl::StrCat("got kind \"", m.kind(),
                                     "\", want \"ffn\" for method flexolmo"));
    return;  // everything below is about FFN experts
  }
  CheckBranch(part, base, problems);
  problems.Same(where, "frozen tensors", Short(m.frozen_sha256()),
                Short(package::FrozenDigest(base.manifest)),
                "the expert was trained beside another trunk");
  CheckItself(m, problems);
}

// METHODS 11. That there are means of every layer, CheckItself has seen.
void CheckAnchored(const ExpertManifest& m, const Recipe::Router& router,
                   Problems& problems) {
  if (!m.domain().has_anchored()) {
    problems.Add(m.id(),
                 "got no statistics for anchored routing, want per-layer "
                 "means and thresholds; publish the expert again with them, "
                 "or choose router.kind = \"topk\"");
    return;
  }
  const v1::AnchoredStatistics& s = m.domain().anchored();
  if (router.gate && s.smoothing() != router.smoothing) {
    problems.Add(m.id(),
                 absl::StrCat("got router.smoothing ", router.smoothing,
                              ", want ", s.smoothing(),
                              ", under which its thresholds were taken; "
                              "change the recipe or set router.gate = false"));
  }
}

// The recipe's own contradictions, and whether the parts are what it names.
void CheckRecipe(const Recipe& recipe, const std::vector<Part>& experts,
                 Problems& problems) {
  const int total = static_cast<int>(experts.size()) + 1;
  if (recipe.router.kind == "topk" && recipe.router.k > total) {
    problems.Add("recipe",
                 absl::StrCat("got router.k = ", recipe.router.k,
                              ", want at most ", total,
                              ", the experts with the base"));
  }
  CheckNames(recipe, experts, problems);
}

std::vector<std::string> Notes(const Part& base,
                               const std::vector<Part>& experts,
                               const Recipe& recipe) {
  std::vector<std::string> notes = {
      "exclusion: exact. The trunk is the base's, bit for bit, and router "
      "rows are as each owner trained them, so a query without an expert "
      "gives the logits of a composition that never had it"};
  AddNotes(base, experts, notes);
  std::set<double> quantiles;
  for (const Part& part : experts) {
    quantiles.insert(part.manifest.domain().anchored().gate_quantile());
  }
  if (recipe.router.kind == "anchored") {
    if (recipe.router.gate && quantiles.size() > 1) {
      notes.push_back(absl::StrCat("owners took their thresholds at different "
                                   "quantiles (",
                                   absl::StrJoin(quantiles, ", "),
                                   "): each expert keeps its own"));
    }
    if (!recipe.router.gate) {
      notes.push_back("the typicality gate is off: text that no allowed "
                      "expert was made for goes to the nearest one");
    }
    notes.push_back("anchored routing has no form in Hugging Face layouts: "
                    "an export routes by plain top-k over the trained rows");
  }
  return notes;
}

v1::CompositionLock MakeLock(const Recipe& recipe, const Part& base,
                             const std::vector<Part>& experts) {
  v1::CompositionLock lock = LockOf(recipe, base, experts);
  double quantile = 0;
  for (const Part& part : experts) {
    const double q = part.manifest.domain().anchored().gate_quantile();
    if (q > 0) quantile = quantile == 0 ? q : std::min(quantile, q);
  }
  v1::RouterLock& r = *lock.mutable_router();
  r.set_kind(recipe.router.kind);
  r.set_k(recipe.router.k);
  // A post-norm block drops the factor; in a pre-norm one it would change
  // the size of the FFN's output (METHODS 1).
  r.set_renormalise(base.manifest.model().block() == "llama");
  r.set_smoothing(recipe.router.smoothing);
  r.set_ridge(kAnchorRidge);
  r.set_gate(recipe.router.gate);
  r.set_gate_quantile(quantile);
  r.set_rows("trained");
  lock.set_exclusion("exact");
  return lock;
}

}  // namespace

Plan PlanFlexOlmo(const Recipe& recipe, const Part& base,
                  const std::vector<Part>& experts) {
  Plan plan;
  Problems problems(plan.problems);
  CheckRecipe(recipe, experts, problems);
  CheckBase(base, problems);
  for (const Part& part : experts) {
    CheckExpert(part, base, problems);
    if (recipe.router.kind == "anchored" && part.manifest.kind() == "ffn") {
      CheckAnchored(part.manifest, recipe.router, problems);
    }
  }
  plan.lock = MakeLock(recipe, base, experts);
  plan.notes = Notes(base, experts, recipe);

  const int64_t trunk = Parameters(base.manifest, "");
  plan.parameters = trunk;
  plan.referenced_bytes = FileBytes(base.manifest, "weights.safetensors");
  std::vector<int64_t> ffns = {Parameters(base.manifest, ".mlp.")};
  for (const Part& part : experts) {
    plan.parameters += Parameters(part.manifest, "");
    plan.referenced_bytes += FileBytes(part.manifest, "weights.safetensors");
    ffns.push_back(Parameters(part.manifest, ".mlp."));
  }
  // A token's most: the trunk, every row, and the k largest FFNs (anchored:
  // the base's and one more).
  plan.active_parameters = trunk - ffns[0];
  for (const Part& part : experts) {
    plan.active_parameters += Parameters(part.manifest, ".router.row");
  }
  if (recipe.router.kind == "anchored") {
    plan.active_parameters += ffns[0];
    plan.active_parameters +=
        ffns.size() > 1 ? *std::max_element(ffns.begin() + 1, ffns.end()) : 0;
  } else {
    std::sort(ffns.begin(), ffns.end(), std::greater<>());
    for (int k = 0; k < recipe.router.k && k < static_cast<int>(ffns.size());
         ++k) {
      plan.active_parameters += ffns[k];
    }
  }
  plan.new_bytes = static_cast<int64_t>(WriteLock(plan.lock).size());
  return plan;
}

}  // namespace motet::assemble
