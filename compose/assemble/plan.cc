// SPDX-License-Identifier: Apache-2.0
// Recipe and manifests in, plan out. Pure: reads no file, asks no server, and
// does not stop at the first thing that does not fit, so that a user repairs
// a recipe in one go. What is checked here from manifests is checked again
// from the files when a composition is loaded (flexolmo.cc).
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "compose/assemble/composition.h"
#include "compose/assemble/gate.h"
#include "compose/assemble/verify.h"
#include "compose/package/manifest.h"
#include "compose/package/package_folder.h"

namespace motet::assemble {
namespace {

using v1::ExpertManifest;

// lambda of METHODS 11 as a share of the mean diagonal of Sigma_0, with which
// `motet base train` makes the precision in the base's anchor.safetensors.
constexpr double kAnchorRidge = 1e-2;

std::string Short(const std::string& sha256) {
  return sha256.empty() ? "none" : sha256.substr(0, 12);
}

const v1::FileDigest* FindFile(const ExpertManifest& manifest,
                               const std::string& path) {
  for (const v1::FileDigest& file : manifest.files()) {
    if (file.path() == path) return &file;
  }
  return nullptr;
}
std::string FileSha256(const ExpertManifest& manifest,
                       const std::string& path) {
  const v1::FileDigest* file = FindFile(manifest, path);
  return file == nullptr ? "" : file->sha256();
}
uint64_t FileBytes(const ExpertManifest& manifest, const std::string& path) {
  const v1::FileDigest* file = FindFile(manifest, path);
  return file == nullptr ? 0 : file->size_bytes();
}

int64_t Elements(const v1::TensorDigest& tensor) {
  int64_t n = 1;
  for (const uint64_t dim : tensor.shape()) n *= static_cast<int64_t>(dim);
  return n;
}
// Parameters that serve: the train-time bias does not.
int64_t Parameters(const ExpertManifest& manifest, absl::string_view part) {
  int64_t n = 0;
  for (const v1::TensorDigest& tensor : manifest.tensors()) {
    if (absl::EndsWith(tensor.name(), ".router.bias")) continue;
    if (absl::StrContains(tensor.name(), part)) n += Elements(tensor);
  }
  return n;
}

// Collects what does not fit, each line with whose fault it is.
class Problems {
 public:
  explicit Problems(std::vector<std::string>& out) : out_(out) {}
  void Add(const std::string& where, const std::string& text) {
    out_.push_back(absl::StrCat("[", where, "] ", text));
  }
  void Same(const std::string& where, const std::string& what,
            const std::string& got, const std::string& want,
            const std::string& hint) {
    if (got != want) {
      Add(where, absl::StrCat("got ", what, " ", got, ", want the base's ",
                              want, hint.empty() ? "" : "; ", hint));
    }
  }

 private:
  std::vector<std::string>& out_;
};

// What a manifest says of itself: tensors of every layer, lengths of means.
void CheckItself(const ExpertManifest& m, Problems& problems) {
  for (const std::string& reason : package::CheckManifest(m)) {
    problems.Add(m.id(), "got a manifest whose " + reason);
  }
}

void CheckBase(const Part& base, Problems& problems) {
  const ExpertManifest& m = base.manifest;
  CheckItself(m, problems);
  if (m.kind() != "base") {
    problems.Add(m.id(), absl::StrCat("got kind \"", m.kind(),
                                      "\" as the base, want \"base\""));
  }
  if (base.revoked) {
    problems.Add(m.id(), "got a revoked base, want one that is in force; "
                         "train or choose another base");
  }
}

void CheckExpert(const Part& part, const Part& base, Problems& problems) {
  const ExpertManifest& m = part.manifest;
  const ExpertManifest& b = base.manifest;
  const std::string& where = m.id();
  if (part.revoked) {
    problems.Add(where, "got a revoked expert, want one that is in force; "
                        "take it out of the recipe");
  }
  if (m.kind() != "ffn") {
    problems.Add(where, absl::StrCat("got kind \"", m.kind(),
                                     "\", want \"ffn\" for this method"));
    return;  // everything below is about FFN experts
  }
  const std::string train = "ask its owner to train on this base";
  problems.Same(where,
                absl::StrCat("an expert trained on base ", m.base().id(),
                             ", manifest"),
                Short(m.base().manifest_sha256()), Short(base.manifest_sha256),
                train);
  problems.Same(where, "base weights", Short(m.base().weights_sha256()),
                Short(FileSha256(b, "weights.safetensors")), train);
  problems.Same(where, "tokenizer", Short(m.base().tokenizer_sha256()),
                Short(FileSha256(b, "tokenizer.json")),
                "token ids would mean other text");
  problems.Same(where, "frozen tensors", Short(m.frozen_sha256()),
                Short(package::FrozenDigest(b)),
                "the expert was trained beside another trunk");
  problems.Same(where, "block", m.model().block(), b.model().block(), "");
  problems.Same(where, "layers", absl::StrCat(m.model().layers()),
                absl::StrCat(b.model().layers()), "");
  problems.Same(where, "width", absl::StrCat(m.model().width()),
                absl::StrCat(b.model().width()), "");
  problems.Same(where, "vocabulary", absl::StrCat(m.model().vocabulary()),
                absl::StrCat(b.model().vocabulary()), "");
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
  if (!router.gate || !Thresholds(s, router.smoothing, router.prefix_mean,
                                  router.quantile)
                           .empty()) {
    return;
  }
  problems.Add(
      m.id(),
      absl::StrCat("got router.smoothing ",
                   router.prefix_mean ? "\"prefix\""
                                      : absl::StrCat(router.smoothing),
                   router.quantile > 0
                       ? absl::StrCat(" at quantile ", router.quantile)
                       : "",
                   ", want ", PublishedGates(s),
                   ", under which its thresholds were taken; change the "
                   "recipe or set router.gate = false"));
}

// METHODS 5. Their number and floor, CheckItself has seen.
void CheckMoments(const Part& base, const std::vector<Part>& experts,
                  Problems& problems) {
  if (base.manifest.domain().tokens() == 0) {
    problems.Add(base.manifest.id(),
                 "got a base that does not say how many tokens its anchor is "
                 "of, want one made by this version for method dume; train or "
                 "import the base again");
  }
  for (const Part& part : experts) {
    if (part.manifest.domain().has_second_moments()) continue;
    problems.Add(part.manifest.id(),
                 "got no second moments, want statistics.safetensors for "
                 "method dume; train it by a plan with second_moments = true, "
                 "or choose method flexolmo");
  }
}

// The recipe's own contradictions, and whether the parts are what it names.
void CheckRecipe(const Recipe& recipe, const std::vector<Part>& experts,
                 Problems& problems) {
  if (recipe.method != "flexolmo" && recipe.method != "dume") {
    problems.Add("recipe", absl::StrCat("got method \"", recipe.method,
                                        "\", want \"flexolmo\" or "
                                        "\"dume\""));
  }
  if (experts.size() > kMaxExperts) {
    problems.Add("recipe", absl::StrCat("got ", experts.size(),
                                        " experts, want at most ",
                                        kMaxExperts));
  }
  const int total = static_cast<int>(experts.size()) + 1;
  const Recipe::Router& router = recipe.router;
  const int choices = total + router.null_experts;
  if (router.kind == "topk" && router.k > choices) {
    problems.Add("recipe",
                 absl::StrCat("got router.k = ", router.k, ", want at most ",
                              choices, ", the experts with the base",
                              router.null_experts > 0 ? " and the nulls" : ""));
  }
  if (router.most_active > choices) {
    problems.Add("recipe",
                 absl::StrCat("got router.most_active = ", router.most_active,
                              ", want at most ", choices,
                              ", the experts with the base"));
  }
  if (router.kind == "topk" && router.most_active > 0 &&
      router.most_active < router.k) {
    problems.Add("recipe",
                 absl::StrCat("got router.most_active = ", router.most_active,
                              ", want at least router.k = ", router.k));
  }
  if (recipe.experts.size() != experts.size()) {
    problems.Add("recipe", absl::StrCat("got ", experts.size(),
                                        " packages, want the ",
                                        recipe.experts.size(), " it names"));
  }
  std::set<std::string> names;
  for (size_t i = 0; i < experts.size(); ++i) {
    const std::string& id = experts[i].manifest.id();
    const std::string name = id.substr(0, id.find('@'));
    if (i < recipe.experts.size() && recipe.experts[i] != id &&
        recipe.experts[i] != name) {
      problems.Add("recipe", absl::StrCat("got package ", id, ", want ",
                                          recipe.experts[i]));
    }
    if (!names.insert(name).second) {
      problems.Add("recipe", absl::StrCat("got ", name, " twice, want each "
                                          "expert once"));
    }
  }
}

void LicenceNotes(const std::string& id, const v1::LicenceTerms& terms,
                  std::vector<std::string>& notes) {
  const auto may_not = [&](const auto& list, const char* what) {
    for (const std::string& value : list) {
      notes.push_back(absl::StrCat(id, " may not serve ", what, " ", value,
                                   ": the gate will exclude it there"));
    }
  };
  const auto only = [&](const auto& list, const char* what) {
    if (list.empty()) return;
    notes.push_back(absl::StrCat(id, " serves only ", what, " ",
                                 absl::StrJoin(list, ", "),
                                 ": the gate will exclude it elsewhere"));
  };
  may_not(terms.forbidden_purposes(), "purpose");
  only(terms.allowed_purposes(), "purpose");
  may_not(terms.forbidden_tenants(), "tenant");
  only(terms.allowed_tenants(), "tenant");
  if (!terms.not_before().empty()) {
    notes.push_back(absl::StrCat(id, " serves from ", terms.not_before(),
                                 " on"));
  }
  if (!terms.not_after().empty()) {
    notes.push_back(absl::StrCat(id, " serves until ", terms.not_after()));
  }
  if (!terms.attribution().empty()) {
    notes.push_back(absl::StrCat(id, " asks for attribution: ",
                                 terms.attribution()));
  }
}

std::vector<std::string> Notes(const Part& base,
                               const std::vector<Part>& experts,
                               const Recipe& recipe) {
  const bool dume = recipe.method == "dume";
  std::vector<std::string> notes = {absl::StrCat(
      "exclusion: exact. The trunk is the base's, bit for bit, and router "
      "rows are ",
      dume ? "solved for each query's set from that set's statistics"
           : "as each owner trained them",
      ", so a query without an expert gives the logits of a composition that "
      "never had it")};
  LicenceNotes(base.manifest.id(), base.manifest.licence(), notes);
  if (!base.manifest.licence().spdx().empty()) {
    notes.push_back(absl::StrCat(base.manifest.id(), " is licensed ",
                                 base.manifest.licence().spdx()));
  }
  std::map<std::string, std::vector<std::string>> domains;
  std::set<double> quantiles;
  for (const Part& part : experts) {
    const ExpertManifest& m = part.manifest;
    LicenceNotes(m.id(), m.licence(), notes);
    if (!m.domain().domain().empty()) {
      domains[m.domain().domain()].push_back(m.id());
    }
    quantiles.insert(m.domain().anchored().gate_quantile());
  }
  for (const auto& [domain, ids] : domains) {
    if (ids.size() < 2) continue;
    notes.push_back(absl::StrCat("domain \"", domain, "\" names ",
                                 absl::StrJoin(ids, " and "),
                                 ": a request for it means all of them"));
  }
  if (recipe.router.kind == "topp" && recipe.router.most_active == 0) {
    notes.push_back("a token may use every expert where the router is "
                    "undecided: router.most_active bounds its cost");
  }
  if (recipe.router.kind == "anchored") {
    if (recipe.router.mixing == "switch") {
      notes.push_back(
          absl::StrCat("mixing = \"switch\" runs the chosen expert without "
                       "the base, which suits experts trained alone; these "
                       "were trained beside it",
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
  v1::CompositionLock lock;
  lock.set_schema_version(1);
  lock.set_name(recipe.name);
  lock.set_method(recipe.method);
  v1::BaseReference& b = *lock.mutable_base();
  b.set_id(base.manifest.id());
  b.set_manifest_sha256(base.manifest_sha256);
  b.set_weights_sha256(FileSha256(base.manifest, "weights.safetensors"));
  b.set_tokenizer_sha256(FileSha256(base.manifest, "tokenizer.json"));
  double quantile = 0;
  for (const Part& part : experts) {
    const ExpertManifest& m = part.manifest;
    v1::LockedExpert& e = *lock.add_experts();
    e.set_id(m.id());
    e.set_manifest_sha256(part.manifest_sha256);
    e.set_weights_sha256(FileSha256(m, "weights.safetensors"));
    e.set_domain(m.domain().domain());
    *e.mutable_licence() = m.licence();
    e.set_log_index(part.log_index);
    const double q = m.domain().anchored().gate_quantile();
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
  r.set_most_active(recipe.router.most_active);
  r.set_mixing(recipe.router.mixing);
  r.set_prefix_mean(recipe.router.prefix_mean);
  r.set_smoothing(recipe.router.smoothing);
  const bool dume = recipe.method == "dume";
  r.set_ridge(dume ? recipe.router.ridge : kAnchorRidge);
  if (dume) r.set_anchor_tokens(base.manifest.domain().tokens());
  r.set_gate(recipe.router.gate);
  r.set_gate_quantile(recipe.router.quantile > 0 ? recipe.router.quantile
                                                 : quantile);
  r.set_quantile(recipe.router.quantile);
  r.set_rows(dume ? "solved" : "trained");
  lock.set_exclusion("exact");
  lock.set_software("motet " MOTET_VERSION);
  return lock;
}

}  // namespace

Plan MakePlan(const Recipe& recipe, const Part& base,
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
  if (recipe.method == "dume") CheckMoments(base, experts, problems);
  plan.lock = MakeLock(recipe, base, experts);
  plan.notes = Notes(base, experts, recipe);

  const int64_t trunk = Parameters(base.manifest, "");
  plan.parameters = trunk;
  plan.referenced_bytes = FileBytes(base.manifest, "weights.safetensors");
  std::vector<int64_t> ffns = {Parameters(base.manifest, ".mlp.")};
  for (const Part& part : experts) {
    plan.parameters += Parameters(part.manifest, "");
    plan.referenced_bytes += FileBytes(part.manifest, "weights.safetensors");
    if (recipe.method == "dume") {
      plan.referenced_bytes += FileBytes(part.manifest, kStatisticsFile);
    }
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
    int most = recipe.router.k;
    if (recipe.router.kind == "topp") {
      most = recipe.router.most_active > 0 ? recipe.router.most_active
                                           : static_cast<int>(ffns.size());
    }
    for (int k = 0; k < most && k < static_cast<int>(ffns.size());
         ++k) {
      plan.active_parameters += ffns[k];
    }
  }
  plan.new_bytes = static_cast<int64_t>(WriteLock(plan.lock).size());
  return plan;
}

}  // namespace motet::assemble
