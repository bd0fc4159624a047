// SPDX-License-Identifier: Apache-2.0
// The plan of method bam: whole models of one base become attention and FFN
// experts on what is left of their averaged trunk. What is checked here from
// manifests is checked again from the files when a composition is loaded
// (bam.cc).
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compose/assemble/member_rows.h"
#include "compose/assemble/method.h"
#include "compose/assemble/plan_parts.h"
#include "compose/assemble/tuning.h"
#include "compose/package/manifest_dense.h"

namespace motet::assemble {
namespace {

void CheckExpert(const Part& part, const Part& base, const Recipe& recipe,
                 Problems& problems) {
  const v1::ExpertManifest& m = part.manifest;
  if (m.kind() != "attention_ffn") {  // its owner offers its attention
    problems.Add(m.id(), absl::StrCat("got kind \"", m.kind(),
                                      "\", want \"attention_ffn\" for "
                                      "method bam; ask its owner to offer "
                                      "its attention as an expert"));
    return;
  }
  CheckBranch(part, base, problems);
  CheckItself(m, problems);
  for (const std::string& reason : package::CheckDense(m, base.manifest)) {
    problems.Add(m.id(), "got a model whose " + reason);
  }
  const std::string lack = LackOfMeans(m);
  if (recipe.bam.rows == "means" && !lack.empty()) {
    problems.Add(m.id(), absl::StrCat("got ", lack,
                                      ", want them for bam.rows = \"means\"; "
                                      "choose \"random\" and tune the router"));
  }
}

std::vector<std::string> Notes(const Recipe& recipe, const Part& base,
                               const std::vector<Part>& experts) {
  const bool shared = recipe.bam.kv == "shared";
  std::vector<std::string> notes;
  if (!TunesRows(recipe)) {
    notes.push_back(absl::StrCat(
        "exclusion: exact. A query without an expert is answered over a "
        "trunk ",
        shared ? "(keys and values are of it) " : "",
        "averaged again from the other packages, as if it had never been "
        "there; it is made when first asked for and kept in memory while "
        "there is room (--merge-memory)"));
  }
  notes.push_back(
      shared ? "KV cache: one, whatever the expert set"
             : absl::StrCat("KV cache: one for each expert of the query's "
                            "set, ",
                            experts.size() + 1, " for all"));
  if (!TunesRows(recipe)) {
    notes.push_back(
        recipe.bam.rows == "random"
            ? "the routers' rows are random: they must be tuned before their "
              "choices mean anything"
            : "the FFN router's rows are the domains' means, untuned; "
              "attention experts have equal shares until their router is "
              "tuned");
  }
  if (!recipe.router.renormalise.value_or(false) && recipe.router.k == 1) {
    notes.push_back(absl::StrCat(
        "router.renormalise false scales the FFN that a token takes by its "
        "probability, which an untuned router leaves near 1 / ",
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
  r.set_k(from.k);
  // Softmax before the choice [METHODS 3].
  r.set_renormalise(from.null_experts > 0 || from.renormalise.value_or(false));
  if (from.kind == "topp") r.set_top_p(from.top_p);
  r.set_null_experts(from.null_experts);
  r.set_shared(from.shared);
  r.set_most_active(from.most_active);
  r.set_rows(recipe.bam.rows);
  lock.mutable_bam()->set_kv(recipe.bam.kv);
  if (recipe.bam.rows == "random") {
    lock.mutable_bam()->set_seed(recipe.bam.seed);
  }
  lock.set_exclusion("exact");
  return lock;
}

// Numbers, and what a token uses of them: all of attention, the k largest
// FFNs.
void Count(const Recipe& recipe, const Part& base,
           const std::vector<Part>& experts, Plan& plan) {
  const v1::ExpertManifest& b = base.manifest;
  const bool shared = recipe.bam.kv == "shared";
  const auto members = static_cast<int64_t>(experts.size()) + 1;
  const auto of_attention = [&](const char* part) {
    return Parameters(b, absl::StrCat(".self_attn.", part));
  };
  int64_t own = of_attention("");
  if (shared) {
    own -= of_attention("k_proj") + of_attention("v_proj") +
           of_attention("k_norm");
  }
  const int64_t trunk =
      Parameters(b, "") - Parameters(b, ".mlp.") - own;
  const int64_t rows =
      2 * members * b.model().layers() * b.model().width();
  std::vector<int64_t> ffns = {Parameters(b, ".mlp.")};
  for (const Part& part : experts) {
    const v1::ModelShape& shape = part.manifest.model();
    ffns.push_back(int64_t{3} * shape.layers() * shape.width() *
                   shape.ffn_width());
  }
  plan.parameters = plan.active_parameters = trunk + members * own + rows;
  for (const int64_t ffn : ffns) plan.parameters += ffn;
  plan.active_parameters += MostFfns(recipe, ffns);
}

}  // namespace

Plan PlanBam(const Recipe& recipe, const Part& base,
             const std::vector<Part>& experts) {
  Plan plan;
  Problems problems(plan.problems);
  const std::string& kind = recipe.router.kind;
  if (kind != "topk" && kind != "topp") {
    problems.Add("recipe", absl::StrCat("got router.kind = \"", kind,
                                        "\", want \"topk\" or \"topp\" "
                                        "for method bam"));
  }
  if (recipe.bam.kv != "experts" && recipe.bam.kv != "shared") {
    problems.Add("recipe", absl::StrCat("got bam.kv = \"", recipe.bam.kv,
                                        "\", want \"experts\" or "
                                        "\"shared\""));
  }
  CheckChoices(recipe, static_cast<int>(experts.size()) + 1, problems);
  CheckNames(recipe, experts, problems);
  CheckBase(base, problems);
  for (const Part& part : experts) {
    CheckExpert(part, base, recipe, problems);
  }
  plan.lock = MakeLock(recipe, base, experts);
  plan.notes = Notes(recipe, base, experts);
  Count(recipe, base, experts, plan);
  plan.referenced_bytes = FileBytes(base.manifest, "weights.safetensors");
  for (const Part& part : experts) {
    plan.referenced_bytes += FileBytes(part.manifest, "weights.safetensors");
  }
  plan.new_bytes = static_cast<int64_t>(WriteLock(plan.lock).size());
  const v1::ModelShape& shape = base.manifest.model();
  AddTuning(recipe, base,
            int64_t{2} * (static_cast<int64_t>(experts.size()) + 1) *
                shape.layers() * shape.width(),
            plan);
  return plan;
}

void CheckBamLock(const v1::CompositionLock& lock,
                  std::vector<std::string>& problems) {
  const v1::RouterLock& router = lock.router();
  const auto check = [&](bool good, const std::string& problem) {
    if (!good) problems.push_back(problem);
  };
  check(lock.bam().kv() == "experts" || lock.bam().kv() == "shared",
        absl::StrCat("bam.kv = \"", lock.bam().kv(),
                     "\" (want experts or shared)"));
  check(router.kind() == "topk" || router.kind() == "topp",
        absl::StrCat("router.kind = \"", router.kind(),
                     "\" (want topk or topp for bam)"));
  const std::string rows = RowsBeforeTuning(lock);
  check(rows == "means" || rows == "random",
        absl::StrCat("router.rows = \"", rows,
                     "\" (want means or random)"));
}

}  // namespace motet::assemble
