// SPDX-License-Identifier: Apache-2.0
// The plan of method ensemble: whole models of one base answer together. What
// is checked here from manifests is checked again from the files when a
// composition is loaded (ensemble_method.cc).
#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/member_rows.h"
#include "compose/assemble/method.h"
#include "compose/assemble/plan_parts.h"
#include "compose/package/manifest_dense.h"
#include "compose/package/manifest_kinds.h"
#include "compose/package/package_folder.h"

namespace motet::assemble {
namespace {

constexpr double kPriorRate = 0.3;  // [METHODS 4]

const std::set<std::string>& WeightKinds() {
  static const auto* const kinds =
      new std::set<std::string>{"bayes", "centroid", "prior", "uniform"};
  return *kinds;
}

bool IsFfnExpert(const Part& part) { return part.manifest.kind() == "ffn"; }
bool TrainedAlone(const v1::ExpertManifest& m) {
  return m.router_row().source() == kMeanRows;
}

void CheckOptions(const Recipe::Ensemble& ensemble,
                  const std::vector<Part>& experts, Problems& problems) {
  const auto models = static_cast<int>(experts.size()) + ensemble.base;
  const std::string& weights = ensemble.weights;
  if (!WeightKinds().contains(weights)) {
    problems.Add("recipe",
                 absl::StrCat("got ensemble.weights = \"", weights, "\", want ",
                              absl::StrJoin(WeightKinds(), ", ")));
  }
  if (weights == "prior" && ensemble.prior_text.empty()) {
    problems.Add("recipe",
                 "got ensemble.weights = \"prior\" without text to learn it "
                 "from, want ensemble.prior_text, a .jsonl of held-out "
                 "documents");
  }
  if (!ensemble.prior_text.empty() && weights != "prior" &&
      weights != "bayes") {
    problems.Add("recipe", absl::StrCat("got ensemble.prior_text with weights "
                                        "\"",
                                        weights,
                                        "\", want it with "
                                        "\"prior\" or \"bayes\"; remove it"));
  }
  if (ensemble.temperature.has_value() && weights != "centroid") {
    problems.Add("recipe", absl::StrCat("got ensemble.temperature with weights "
                                        "\"",
                                        weights,
                                        "\", want it with "
                                        "\"centroid\"; remove it"));
  }
  if (ensemble.temperature.has_value() &&
      !(*ensemble.temperature > 0 && *ensemble.temperature <= 100)) {
    problems.Add("recipe", absl::StrCat("got ensemble.temperature = ",
                                        *ensemble.temperature,
                                        ", want above 0, at most 100"));
  }
  if (ensemble.top_k > models) {
    problems.Add("recipe",
                 absl::StrCat("got ensemble.top_k = ", ensemble.top_k,
                              ", want at most ", models, ", the models",
                              ensemble.base ? " with the base" : ""));
  }
  if (ensemble.top_k > 0 && ensemble.weights == "uniform") {
    problems.Add("recipe",
                 "got ensemble.top_k with weights \"uniform\", want none: all "
                 "weights are alike; remove it, or choose \"bayes\"");
  }
  if (!ensemble.ffn.empty() &&
      std::none_of(experts.begin(), experts.end(), IsFfnExpert)) {
    problems.Add("recipe",
                 "got ensemble.ffn without experts of kind \"ffn\", "
                 "want none; remove it");
  }
}

void CheckExpert(const Part& part, const Part& base, const Recipe& recipe,
                 Problems& problems) {
  const v1::ExpertManifest& m = part.manifest;
  const bool ffn = IsFfnExpert(part);
  if (!ffn && !package::IsWhole(m.kind())) {
    problems.Add(m.id(), absl::StrCat("got kind \"", m.kind(),
                                      "\", want one that is a model, alone or "
                                      "on its base, for method ensemble"));
    return;
  }
  CheckBranch(part, base, problems);
  CheckItself(m, problems);
  const std::string lack = LackOfMeans(m);
  if (recipe.ensemble.weights == "centroid" && !lack.empty()) {
    problems.Add(m.id(), absl::StrCat("got ", lack,
                                      ", want them for "
                                      "ensemble.weights = \"centroid\""));
  }
  if (ffn) {
    problems.Same(m.id(), "frozen tensors", Short(m.frozen_sha256()),
                  Short(package::FrozenDigest(base.manifest)),
                  "the expert was trained beside another trunk");
    if (recipe.ensemble.ffn == "pair" && TrainedAlone(m)) {
      problems.Add(m.id(),
                   "got an expert that was trained alone, without a router "
                   "row beside the base's, want a trained row for "
                   "ensemble.ffn = \"pair\"; leave ensemble.ffn out");
    }
    return;
  }
  for (const std::string& reason : package::CheckDense(m, base.manifest)) {
    problems.Add(m.id(), "got a model whose " + reason);
  }
}

// Of the model that an expert is.
int64_t ModelParameters(const Part& part, const Part& base,
                        const std::string& ffn) {
  const v1::ExpertManifest& m = part.manifest;
  int64_t n = Parameters(m, "");
  if (IsFfnExpert(part)) {
    const int64_t trunk = Parameters(base.manifest, "");
    if (!RunsAlone(m, ffn)) return trunk + n;
    return trunk - Parameters(base.manifest, ".mlp.") + Parameters(m, ".mlp.");
  }
  for (const v1::TensorDigest& t : m.base_tensors()) n += Elements(t);
  return n;
}

// Of every model one likelihood a sequence.
void CheckPrior(const v1::CompositionLock& lock,
                std::vector<std::string>& problems) {
  const v1::PriorLock& prior = lock.ensemble().prior();
  const auto check = [&](bool good, const std::string& problem) {
    if (!good) problems.push_back(problem);
  };
  check(prior.rate() > 0 && prior.rate() <= 1,
        absl::StrCat("ensemble.prior.rate = ", prior.rate(),
                     " (want above 0, at most 1)"));
  check(prior.sequences() > 0, "ensemble.prior.sequences = 0 (want some)");
  check(prior.experts_size() == lock.experts_size(),
        absl::StrCat("ensemble.prior of ", prior.experts_size(),
                     " experts (want all ", lock.experts_size(), ")"));
  const auto fits = [&](const v1::Likelihoods& of, uint32_t sequences) {
    bool good = static_cast<uint32_t>(of.ln_p_size()) == sequences;
    for (const double x : of.ln_p()) good &= std::isfinite(x) && x <= 0;
    return good;
  };
  bool good =
      fits(prior.base(), lock.ensemble().base() ? prior.sequences() : 0);
  for (const v1::Likelihoods& of : prior.experts()) {
    good &= fits(of, prior.sequences());
  }
  check(good, absl::StrCat("ensemble.prior's ln_p (want ", prior.sequences(),
                           " numbers of each model, none above 0)"));
}

}  // namespace

bool RunsAlone(const v1::ExpertManifest& expert, const std::string& ffn) {
  return ffn == "alone" || (ffn == "trained" && TrainedAlone(expert));
}

Plan PlanEnsemble(const Recipe& recipe, const Part& base,
                  const std::vector<Part>& experts) {
  Plan plan;
  Problems problems(plan.problems);
  const Recipe::Ensemble& ensemble = recipe.ensemble;
  CheckOptions(ensemble, experts, problems);
  if (experts.empty()) {
    problems.Add("recipe", "got no experts, want at least one model");
  }
  CheckNames(recipe, experts, problems);
  CheckBase(base, problems);
  for (const Part& part : experts) {
    CheckExpert(part, base, recipe, problems);
  }

  plan.lock = LockOf(recipe, base, experts);
  plan.lock.set_exclusion("exact");
  v1::EnsembleLock& lock = *plan.lock.mutable_ensemble();
  lock.set_weights(ensemble.weights);
  lock.set_top_k(static_cast<uint32_t>(ensemble.top_k));
  lock.set_base(ensemble.base);
  if (ensemble.weights == "centroid") {
    lock.set_temperature(ensemble.temperature.value_or(0.1));
  }
  if (!ensemble.prior_text.empty()) lock.mutable_prior()->set_rate(kPriorRate);
  // Whether there is such an expert or not: a set's lock must not depend on
  // those that are not in it.
  lock.set_ffn(ensemble.ffn.empty() ? "trained" : ensemble.ffn);

  // One file of the base serves all; each model runs by itself.
  plan.parameters = Parameters(base.manifest, "");
  // Centroids: the base reads the prefix, whether it answers or not.
  const bool reads = ensemble.base || ensemble.weights == "centroid";
  plan.active_parameters = reads ? plan.parameters : 0;
  plan.referenced_bytes = FileBytes(base.manifest, "weights.safetensors");
  for (const Part& part : experts) {
    plan.parameters += Parameters(part.manifest, "");
    plan.active_parameters += ModelParameters(part, base, lock.ffn());
    plan.referenced_bytes += FileBytes(part.manifest, "weights.safetensors");
  }
  const size_t models = experts.size() + (ensemble.base ? 1 : 0);
  plan.notes = {
      "exclusion: exact. Only the models of a query's set are run and their "
      "weights are made of what they alone say, so a query without an expert "
      "gives the logits of an ensemble that never had it; without any expert "
      "the base answers alone",
      absl::StrFormat(
          "cost: every model reads every token: %d models, %.3g times the "
          "base's parameters a token, and a cache of keys and values for each",
          models,
          static_cast<double>(plan.active_parameters) /
              static_cast<double>(
                  std::max<int64_t>(1, Parameters(base.manifest, ""))))};
  if (!ensemble.prior_text.empty()) {
    plan.notes.push_back(
        "prior: learnt when this is applied, from what each model makes of "
        "the text; the lock keeps the numbers, not the text, and a set's "
        "prior is made of its own models' numbers");
  }
  if (ensemble.weights == "prior" && ensemble.top_k > 0) {
    plan.notes.push_back("with a fixed prior only the top_k models run");
  } else if (ensemble.top_k > 0) {
    plan.notes.push_back(
        "top_k bounds the models that are mixed, not those "
        "that are run: the next token may want others");
  }
  plan.notes.push_back(
      "an ensemble has no form in Hugging Face layouts: it "
      "cannot be exported");
  AddNotes(base, experts, /*exact=*/true, plan.notes);
  plan.new_bytes = static_cast<int64_t>(WriteLock(plan.lock).size());
  return plan;
}

void CheckEnsembleLock(const v1::CompositionLock& lock,
                       std::vector<std::string>& problems) {
  const v1::EnsembleLock& ensemble = lock.ensemble();
  const auto check = [&](bool good, const std::string& problem) {
    if (!good) problems.push_back(problem);
  };
  const std::string& weights = ensemble.weights();
  check(WeightKinds().contains(weights),
        absl::StrCat("ensemble.weights = \"", weights, "\" (want ",
                     absl::StrJoin(WeightKinds(), ", "), ")"));
  const int most = lock.experts_size() + (ensemble.base() ? 1 : 0);
  check(ensemble.top_k() <= static_cast<uint32_t>(most) &&
            (weights != "uniform" || ensemble.top_k() == 0),
        absl::StrCat("ensemble.top_k = ", ensemble.top_k(),
                     " (want at most the ", most, " models; 0 if uniform)"));
  check(weights != "centroid" ||
            (ensemble.temperature() > 0 && ensemble.temperature() <= 100),
        absl::StrCat("ensemble.temperature = ", ensemble.temperature(),
                     " (want above 0, at most 100)"));
  check(ensemble.has_prior() ? weights == "prior" || weights == "bayes"
                             : weights != "prior",
        absl::StrCat("ensemble.weights = \"", weights,
                     ensemble.has_prior() ? "\" with" : "\" without",
                     " a prior"));
  if (ensemble.has_prior()) CheckPrior(lock, problems);
  check(ensemble.ffn() == "trained" || ensemble.ffn() == "pair" ||
            ensemble.ffn() == "alone",
        absl::StrCat("ensemble.ffn = \"", ensemble.ffn(),
                     "\" (want trained, pair or alone)"));
}

}  // namespace motet::assemble
