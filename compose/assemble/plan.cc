// SPDX-License-Identifier: Apache-2.0
// The plan of methods flexolmo and dume: recipe and manifests in, plan out.
// What is checked here from manifests is checked again from the files when a
// composition is loaded (flexolmo.cc).
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/gate.h"
#include "compose/assemble/method.h"
#include "compose/assemble/plan_parts.h"
#include "compose/assemble/tuning.h"
#include "compose/assemble/verify.h"
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
                                     "\", want \"ffn\" for this method"));
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
  const Gate gate = {router.smoothing, router.prefix_mean, router.quantile,
                     router.gate_rank};
  if (!router.gate || !Thresholds(s, gate).empty()) return;
  problems.Add(
      m.id(),
      absl::StrCat("got router.smoothing ",
                   router.prefix_mean ? "\"prefix\""
                                      : absl::StrCat(router.smoothing),
                   router.quantile > 0
                       ? absl::StrCat(" at quantile ", router.quantile)
                       : "",
                   router.gate_rank > 0
                       ? absl::StrCat(" with a gate of rank ", router.gate_rank)
                       : "",
                   ", want ", PublishedGates(s),
                   ", under which its thresholds were taken; change the "
                   "recipe or set router.gate = false"));
}

bool Alone(const Part& part) {
  return part.manifest.router_row().source() == kMeanRows;
}

int CountAlone(const std::vector<Part>& experts) {
  return static_cast<int>(std::count_if(experts.begin(), experts.end(), Alone));
}

// Rows that were trained beside the base, and rows that were not, say
// different things.
void CheckRowSources(const Recipe& recipe, const std::vector<Part>& experts,
                     Problems& problems) {
  if (recipe.method != "flexolmo") return;
  const bool anchored = recipe.router.kind == "anchored";
  const int alone = CountAlone(experts);
  for (const Part& part : experts) {
    if (anchored && recipe.router.mixing == "pair" && Alone(part)) {
      problems.Add(part.manifest.id(),
                   "got an expert trained alone, want one trained beside the "
                   "base for router.mixing = \"pair\"; set router.mixing = "
                   "\"switch\"");
    }
    if (!anchored && alone < static_cast<int>(experts.size()) && Alone(part)) {
      problems.Add(part.manifest.id(),
                   absl::StrCat("got a row that is its domain's mean beside "
                                "rows that were trained, want rows of one "
                                "source for router.kind = \"",
                                recipe.router.kind,
                                "\"; choose \"anchored\" with mixing = "
                                "\"switch\", or method dume"));
    }
  }
}

// METHODS 5. Their number and floor, CheckItself has seen.
void CheckMoments(const Recipe& recipe, const Part& base,
                  const std::vector<Part>& experts, Problems& problems) {
  const bool dume = recipe.method == "dume";
  const char* use = dume ? "method dume" : "router.covariance \"pooled\"";
  if (base.manifest.domain().tokens() == 0) {
    problems.Add(base.manifest.id(),
                 absl::StrCat("got a base that does not say how many tokens "
                              "its anchor is of, want one made by this version "
                              "for ", use, "; train or import the base again"));
  }
  for (const Part& part : experts) {
    if (part.manifest.domain().has_second_moments()) continue;
    problems.Add(part.manifest.id(),
                 absl::StrCat("got no second moments, want "
                              "statistics.safetensors for ", use,
                              "; train it by a plan with second_moments = "
                              "true, or choose ",
                              dume ? "method flexolmo" : "\"public\""));
  }
}

// Recipe's experts' statistics.safetensors is read.
bool NeedsMoments(const Recipe& recipe) {
  return recipe.method == "dume" || (recipe.router.kind == "anchored" &&
                                     recipe.router.covariance == "pooled");
}

std::vector<std::string> Notes(const Part& base,
                               const std::vector<Part>& experts,
                               const Recipe& recipe) {
  const bool dume = recipe.method == "dume";
  const int alone = CountAlone(experts);
  std::vector<std::string> notes;
  if (!TunesRows(recipe)) {
    notes.push_back(absl::StrCat(
        "exclusion: exact. The trunk is the base's, bit for bit, and router "
        "rows are ",
        dume ? "solved for each query's set from that set's statistics"
        : NeedsMoments(recipe) ? "their owners', the selection solved for each "
                                 "query's set from that set's statistics"
        : alone > 0            ? "each owner's own"
                               : "as each owner trained them",
        ", so a query without an expert gives the logits of a composition that "
        "never had it"));
  }
  AddNotes(base, experts, !RoutesNarrowed(recipe), notes);
  std::set<double> quantiles;
  for (const Part& part : experts) {
    quantiles.insert(part.manifest.domain().anchored().gate_quantile());
  }
  for (const Part& part : experts) {
    const double noise = part.manifest.domain().anchored().noise();
    if (noise == 0) continue;
    notes.push_back(absl::StrCat(
        part.manifest.id(), " published its means with noise of ", noise,
        " standard deviations of public text: its owner's wish"));
  }
  if (recipe.router.kind == "topp" && recipe.router.most_active == 0) {
    notes.push_back("a token may use every expert where the router is "
                    "undecided: router.most_active bounds its cost");
  }
  if (recipe.router.kind == "anchored") {
    if (recipe.router.mixing == "switch" &&
        alone < static_cast<int>(experts.size())) {
      notes.push_back(
          absl::StrCat("mixing = \"switch\" runs the chosen expert without "
                       "the base, which suits experts trained alone; ",
                       alone == 0 ? "these" : "some of these",
                       " were trained beside it",
                       recipe.router.gate
                           ? ", and their thresholds are of the pair's run"
                           : ""));
    }
    if (recipe.router.gate && recipe.router.quantile == 0 &&
        quantiles.size() > 1) {
      notes.push_back(absl::StrCat("owners took their thresholds at different "
                                   "quantiles (",
                                   absl::StrJoin(quantiles, ", "),
                                   "): each expert keeps its own"));
    }
    if (NeedsMoments(recipe) && recipe.router.gate) {
      notes.push_back("the gate keeps the public covariance, under which its "
                      "thresholds were taken; the selection alone is pooled");
    }
    if (!recipe.router.gate) {
      notes.push_back("the typicality gate is off: text that no allowed "
                      "expert was made for goes to the nearest one");
    }
    notes.push_back("anchored routing has no form in Hugging Face layouts: "
                    "an export routes by plain top-k over the rows");
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
  r.set_renormalise(recipe.router.null_experts > 0 ||
                    recipe.router.renormalise.value_or(
                        base.manifest.model().block() == "llama"));
  if (recipe.router.kind == "topp") r.set_top_p(recipe.router.top_p);
  r.set_null_experts(recipe.router.null_experts);
  r.set_shared(recipe.router.shared);
  r.set_most_active(recipe.router.most_active);
  r.set_mixing(recipe.router.mixing);
  r.set_prefix_mean(recipe.router.prefix_mean);
  r.set_smoothing(recipe.router.smoothing);
  const bool dume = recipe.method == "dume";
  r.set_ridge(dume ? recipe.router.ridge : kAnchorRidge);
  if (NeedsMoments(recipe)) {
    r.set_anchor_tokens(base.manifest.domain().tokens());
  }
  r.set_gate(recipe.router.gate);
  r.set_gate_rank(recipe.router.gate_rank);
  r.set_covariance(recipe.router.covariance);
  r.set_gate_quantile(recipe.router.quantile > 0 ? recipe.router.quantile
                                                 : quantile);
  r.set_quantile(recipe.router.quantile);
  const int alone = CountAlone(experts);
  r.set_rows(dume         ? "solved"
             : alone == 0 ? "trained"
             : alone == static_cast<int>(experts.size()) ? kMeanRows
                                                         : kMixedRows);
  lock.set_exclusion("exact");
  return lock;
}

void CheckRows(const v1::CompositionLock& lock,
               const std::vector<std::string>& want,
               std::vector<std::string>& problems) {
  const std::string got = RowsBeforeTuning(lock);
  for (const std::string& rows : want) {
    if (got == rows) return;
  }
  problems.push_back(absl::StrCat("router.rows = \"", got,
                                  "\" (want ", absl::StrJoin(want, " or "),
                                  ")"));
}

}  // namespace

Plan PlanFlexOlmo(const Recipe& recipe, const Part& base,
                  const std::vector<Part>& experts) {
  Plan plan;
  Problems problems(plan.problems);
  CheckChoices(recipe, static_cast<int>(experts.size()) + 1, problems);
  CheckNames(recipe, experts, problems);
  CheckBase(base, problems);
  for (const Part& part : experts) {
    CheckExpert(part, base, problems);
    if (recipe.router.kind == "anchored" && part.manifest.kind() == "ffn") {
      CheckAnchored(part.manifest, recipe.router, problems);
    }
  }
  CheckRowSources(recipe, experts, problems);
  if (NeedsMoments(recipe)) CheckMoments(recipe, base, experts, problems);
  plan.lock = MakeLock(recipe, base, experts);
  plan.notes = Notes(base, experts, recipe);

  const int64_t trunk = Parameters(base.manifest, "");
  plan.parameters = trunk;
  plan.referenced_bytes = FileBytes(base.manifest, "weights.safetensors");
  std::vector<int64_t> ffns = {Parameters(base.manifest, ".mlp.")};
  for (const Part& part : experts) {
    plan.parameters += Parameters(part.manifest, "");
    plan.referenced_bytes += FileBytes(part.manifest, "weights.safetensors");
    if (NeedsMoments(recipe)) {
      plan.referenced_bytes += FileBytes(part.manifest, kStatisticsFile);
    }
    ffns.push_back(Parameters(part.manifest, ".mlp."));
  }
  // A token's most: the trunk, every row, and its FFNs (anchored: the base's
  // and one more).
  plan.active_parameters = trunk - ffns[0];
  for (const Part& part : experts) {
    plan.active_parameters += Parameters(part.manifest, ".router.row");
  }
  if (recipe.router.kind == "anchored") {
    plan.active_parameters += ffns[0];
    plan.active_parameters +=
        ffns.size() > 1 ? *std::max_element(ffns.begin() + 1, ffns.end()) : 0;
  } else {
    plan.active_parameters += MostFfns(recipe, ffns);
  }
  plan.new_bytes = static_cast<int64_t>(WriteLock(plan.lock).size());
  const v1::ModelShape& shape = base.manifest.model();
  AddTuning(recipe, base,
            (static_cast<int64_t>(experts.size()) + 1) * shape.layers() *
                shape.width(),
            plan);
  return plan;
}

void CheckFlexOlmoLock(const v1::CompositionLock& lock,
                       std::vector<std::string>& problems) {
  CheckRows(lock, {"trained", kMeanRows, kMixedRows}, problems);
}

void CheckDumeLock(const v1::CompositionLock& lock,
                   std::vector<std::string>& problems) {
  const v1::RouterLock& router = lock.router();
  CheckRows(lock, {"solved"}, problems);
  if (router.kind() == "anchored" || !(router.ridge() > 0)) {
    problems.push_back(absl::StrCat(
        "router.kind = \"", router.kind(), "\", router.ridge = ",
        router.ridge(), " (want topk or topp and a ridge above 0 for dume)"));
  }
  if (router.anchor_tokens() == 0) {
    problems.push_back("router.anchor_tokens = 0 (want the number behind the "
                       "base's anchor for dume)");
  }
}

}  // namespace motet::assemble
