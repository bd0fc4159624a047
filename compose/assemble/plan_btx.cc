// SPDX-License-Identifier: Apache-2.0
// The plan of method btx: whole models of one base become experts on their
// averaged trunk. What is checked here from manifests is checked again from
// the files when a composition is loaded (btx.cc).
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/member_rows.h"
#include "compose/assemble/method.h"
#include "compose/assemble/plan_parts.h"
#include "compose/assemble/tuning.h"
#include "compose/package/manifest_dense.h"

namespace motet::assemble {
namespace {

// Kinds of packages that hold whole models.
const std::set<std::string>& WholeKinds() {
  static const auto* const kinds =
      new std::set<std::string>{"dense", "attention_ffn", "sized"};
  return *kinds;
}

void CheckExpert(const Part& part, const Part& base, const Recipe& recipe,
                 Problems& problems) {
  const v1::ExpertManifest& m = part.manifest;
  if (!WholeKinds().contains(m.kind())) {
    problems.Add(m.id(),
                 absl::StrCat("got kind \"", m.kind(), "\", want ",
                              absl::StrJoin(WholeKinds(), ", "),
                              " for method btx, which takes whole models"));
    return;
  }
  CheckBranch(part, base, problems);
  CheckItself(m, problems);
  for (const std::string& reason : package::CheckDense(m, base.manifest)) {
    problems.Add(m.id(), "got a model whose " + reason);
  }
  const std::string lack = LackOfMeans(m);
  if (recipe.btx.rows == "means" && !lack.empty()) {
    problems.Add(m.id(), absl::StrCat("got ", lack,
                                      ", want them for btx.rows = \"means\"; "
                                      "choose \"random\" and tune the router"));
  }
}

void CheckChunks(const Recipe& recipe, const Part& base,
                 const std::vector<Part>& experts, Problems& problems) {
  const int chunks = recipe.btx.chunks;
  if (chunks != 1 && chunks != 2 && chunks != 4 && chunks != 8) {
    problems.Add("recipe", absl::StrCat("got btx.chunks = ", chunks,
                                        ", want 1, 2, 4 or 8"));
    return;
  }
  const size_t ffns = (experts.size() + 1) * chunks;
  if (ffns > math::kMaxExperts) {
    problems.Add("recipe",
                 absl::StrCat("got ", ffns, " FFNs a layer, ", chunks,
                              " of each expert, want at most ",
                              math::kMaxExperts, "; lower btx.chunks"));
  }
  const auto divides = [&](const v1::ExpertManifest& m) {
    if (m.model().ffn_width() % chunks == 0) return;
    problems.Add(m.id(),
                 absl::StrCat("got FFN width ", m.model().ffn_width(),
                              ", want a multiple of btx.chunks = ", chunks));
  };
  divides(base.manifest);
  for (const Part& part : experts) divides(part.manifest);
}

int64_t FfnParameters(const v1::ModelShape& shape) {
  return int64_t{3} * shape.layers() * shape.width() * shape.ffn_width();
}

std::vector<std::string> Notes(const Recipe& recipe, const Part& base,
                               const std::vector<Part>& experts) {
  std::vector<std::string> notes;
  if (!TunesRows(recipe)) {
    notes.push_back(
        "exclusion: exact. A query without an expert is answered over a trunk "
        "averaged again from the other packages, as if it had never been "
        "there; it is made when first asked for and kept in memory while there "
        "is room (--merge-memory)");
    notes.push_back(
        recipe.btx.rows == "random"
            ? "the router's rows are random: it must be tuned before its "
              "choices mean anything"
            : "the router's rows are the domains' means, untuned");
  }
  if (recipe.router.kind == "switch" || recipe.router.kind == "sample") {
    notes.push_back(absl::StrCat(
        "router.kind \"", recipe.router.kind,
        "\" scales the one expert it takes by its probability, which an "
        "untuned router leaves near 1 / ",
        experts.size() + 1));
  }
  AddNotes(base, experts, !RoutesNarrowed(recipe), notes);
  return notes;
}

v1::CompositionLock MakeLock(const Recipe& recipe, const Part& base,
                             const std::vector<Part>& experts) {
  v1::CompositionLock lock = LockOf(recipe, base, experts);
  const Recipe::Router& from = recipe.router;
  v1::RouterLock& r = *lock.mutable_router();
  r.set_kind(from.kind);
  const bool best = from.kind == "switch" || from.kind == "sample";
  r.set_k(best ? 1 : from.k);
  // Softmax after the choice [METHODS 2]; one expert's gate is of all.
  r.set_renormalise(!best &&
                    (from.null_experts > 0 || from.renormalise.value_or(true)));
  if (from.kind == "topp") r.set_top_p(from.top_p);
  if (from.kind == "sample") r.set_temperature(from.temperature);
  r.set_null_experts(from.null_experts);
  r.set_shared(from.shared);
  r.set_most_active(from.most_active);
  r.set_rows(recipe.btx.rows);
  lock.mutable_btx()->set_chunks(recipe.btx.chunks);
  if (recipe.btx.rows == "random") {
    lock.mutable_btx()->set_seed(recipe.btx.seed);
  }
  lock.set_exclusion("exact");
  return lock;
}

}  // namespace

Plan PlanBtx(const Recipe& recipe, const Part& base,
             const std::vector<Part>& experts) {
  Plan plan;
  Problems problems(plan.problems);
  const std::string& kind = recipe.router.kind;
  if (kind == "anchored") {
    problems.Add("recipe",
                 "got router.kind = \"anchored\", want \"topk\", "
                 "\"topp\", \"switch\", \"soft\" or \"sample\" "
                 "for method btx");
  }
  if (recipe.btx.rows != "means" && recipe.btx.rows != "random") {
    problems.Add("recipe", absl::StrCat("got btx.rows = \"", recipe.btx.rows,
                                        "\", want \"means\" or \"random\""));
  }
  CheckChunks(recipe, base, experts, problems);
  CheckChoices(recipe,
               (static_cast<int>(experts.size()) + 1) * recipe.btx.chunks,
               problems);
  CheckNames(recipe, experts, problems);
  CheckBase(base, problems);
  for (const Part& part : experts) CheckExpert(part, base, recipe, problems);

  plan.lock = MakeLock(recipe, base, experts);
  plan.notes = Notes(recipe, base, experts);
  const int64_t trunk =
      Parameters(base.manifest, "") - Parameters(base.manifest, ".mlp.");
  std::vector<int64_t> ffns = {FfnParameters(base.manifest.model())};
  plan.referenced_bytes = FileBytes(base.manifest, "weights.safetensors");
  for (const Part& part : experts) {
    plan.referenced_bytes += FileBytes(part.manifest, "weights.safetensors");
    ffns.push_back(FfnParameters(part.manifest.model()));
  }
  const int chunks = std::max(1, recipe.btx.chunks);
  const int64_t rows = static_cast<int64_t>(ffns.size()) * chunks *
                       base.manifest.model().layers() *
                       base.manifest.model().width();
  plan.parameters = trunk + rows;
  for (const int64_t ffn : ffns) plan.parameters += ffn;
  plan.active_parameters = trunk + rows + MostFfns(recipe, ffns);
  plan.new_bytes = static_cast<int64_t>(WriteLock(plan.lock).size());
  AddTuning(recipe, base, rows, plan);
  return plan;
}

void CheckBtxLock(const v1::CompositionLock& lock,
                  std::vector<std::string>& problems) {
  const v1::RouterLock& router = lock.router();
  const auto check = [&](bool good, const std::string& problem) {
    if (!good) problems.push_back(problem);
  };
  const uint32_t chunks = lock.btx().chunks();
  check(chunks == 1 || chunks == 2 || chunks == 4 || chunks == 8,
        absl::StrCat("btx.chunks = ", chunks, " (want 1, 2, 4 or 8)"));
  check(chunks <= 8 && (lock.experts_size() + 1) * chunks <=
                           static_cast<uint32_t>(math::kMaxExperts),
        absl::StrCat(lock.experts_size(), " experts in ", chunks,
                     " chunks (want at most ", math::kMaxExperts,
                     " with the base's)"));
  check(router.kind() != "anchored",
        "router.kind = \"anchored\" (want none "
        "for btx)");
  const std::string rows = RowsBeforeTuning(lock);
  check(rows == "means" || rows == "random",
        absl::StrCat("router.rows = \"", rows,
                     "\" (want means or random)"));
  check(router.kind() != "sample" ||
            (router.temperature() > 0 && router.temperature() <= 100),
        absl::StrCat("router.temperature = ", router.temperature(),
                     " (want above 0, at most 100)"));
}

}  // namespace motet::assemble
