// SPDX-License-Identifier: Apache-2.0
// The plan of method router_retriever: adapters of one encoder and what their
// owners say of their queries. What is checked here from manifests is checked
// again from the files when a composition is loaded (compose/retrieve), which
// is where it runs: this method has no model of text.
#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/method.h"
#include "compose/assemble/plan_parts.h"
#include "compose/assemble/verify.h"
#include "compose/model/encoder_weights.h"
#include "proto/digest.h"
#include "proto/error.h"

namespace motet::assemble {
namespace {

using v1::ExpertManifest;

std::string NameOf(const std::string& id) { return id.substr(0, id.find('@')); }
std::string OwnerOf(const std::string& id) {
  return id.substr(0, id.find('/'));
}

void CheckEncoder(const Part& base, Problems& problems) {
  const ExpertManifest& m = base.manifest;
  if (m.kind() != "encoder") {
    problems.Add(m.id(), absl::StrCat("got kind \"", m.kind(),
                                      "\" as the base, want \"encoder\" for "
                                      "method router_retriever"));
    return;
  }
  CheckItself(m, problems);
  if (base.revoked) {
    problems.Add(m.id(),
                 "got a revoked base, want one that is in force; "
                 "choose another base");
  }
}

void CheckAdapter(const Part& part, const Part& base, Problems& problems) {
  const ExpertManifest& m = part.manifest;
  if (m.kind() != "embedding_adapter") {
    problems.Add(m.id(), absl::StrCat("got kind \"", m.kind(),
                                      "\", want \"embedding_adapter\" for "
                                      "method router_retriever"));
    return;
  }
  CheckBranch(part, base, problems);
  CheckItself(m, problems);
  model::EncoderConfig config;
  config.layers = base.manifest.model().layers();
  config.width = base.manifest.model().width();
  model::LoraConfig lora;
  lora.rank = m.adapter().rank();
  lora.alpha = m.adapter().alpha();
  lora.targets.assign(m.adapter().targets().begin(),
                      m.adapter().targets().end());
  const absl::Status fits = model::CheckLoraConfig(config, lora);
  if (!fits.ok()) problems.Add(m.id(), std::string(fits.message()));
}

// The gate knows the terms of experts alone.
bool SameTerms(v1::LicenceTerms a, v1::LicenceTerms b) {
  for (v1::LicenceTerms* terms : {&a, &b}) {
    terms->clear_spdx();
    terms->clear_attribution();
  }
  return a.SerializeAsString() == b.SerializeAsString();
}

// What owners published for the experts: by expert, in their order.
class Libraries {
 public:
  Libraries(const std::vector<Part>& experts, const std::vector<Part>& pilots,
            const Part& base, bool gated, Problems& problems)
      : experts_(experts), gated_(gated), problems_(problems) {
    for (size_t e = 0; e < experts.size(); ++e) {
      positions_[NameOf(experts[e].manifest.id())] = e;
    }
    of_.resize(experts.size());
    pointed_.resize(experts.size());
    for (const Part& part : pilots) Add(part, base);
  }
  // Null where an expert has none.
  const std::vector<const Part*>& of() const { return of_; }
  // How many pilots point to each expert.
  const std::vector<int>& pointed() const { return pointed_; }
  int outside() const { return outside_; }
  uint64_t withheld() const { return withheld_; }

 private:
  void Add(const Part& part, const Part& base) {
    const ExpertManifest& m = part.manifest;
    if (m.kind() != "pilots") {
      problems_.Add(m.id(), absl::StrCat("got kind \"", m.kind(),
                                         "\", want \"pilots\" in "
                                         "retriever.pilots"));
      return;
    }
    CheckBranch(part, base, problems_);
    CheckItself(m, problems_);
    if (part.revoked) {
      problems_.Add(m.id(),
                    "got revoked pilots, want those in force; take "
                    "them out of retriever.pilots");
    }
    const std::string of = NameOf(m.pilots().of());
    const auto position = positions_.find(of);
    if (position == positions_.end()) {
      problems_.Add(m.id(), absl::StrCat("got pilots of ", m.pilots().of(),
                                         ", want those of an expert of the "
                                         "recipe; take them out of "
                                         "retriever.pilots, or its expert in"));
      return;
    }
    const ExpertManifest& expert = experts_[position->second].manifest;
    if (OwnerOf(m.id()) != OwnerOf(of)) {
      problems_.Add(m.id(), absl::StrCat("got pilots of ", m.pilots().of(),
                                         ", want them from its own owner"));
    }
    if (!SameTerms(m.licence(), expert.licence())) {
      problems_.Add(m.id(), absl::StrCat("got licence terms other than those "
                                         "of ",
                                         expert.id(),
                                         ", want the same: the gate excludes "
                                         "both together"));
    }
    const Part*& mine = of_[position->second];
    if (mine != nullptr) {
      problems_.Add(m.id(), absl::StrCat("got pilots of ", of, " beside ",
                                         mine->manifest.id(),
                                         ", want one library an expert"));
      return;
    }
    if (gated_ && m.pilots().gate_share() <= 0) {
      problems_.Add(m.id(), "got pilots without gates, want gates with gate = "
                            "true; let its owner make the pilots again");
    }
    mine = &part;
    withheld_ += m.pilots().withheld();
    CheckGroups(m);
  }

  void CheckGroups(const ExpertManifest& m) {
    std::map<std::string, std::string> scored;
    for (const v1::PilotExpert& expert : m.pilots().experts()) {
      scored[expert.id()] = expert.weights_sha256();
    }
    for (const v1::PilotGroup& group : m.pilots().groups()) {
      const auto position = positions_.find(NameOf(group.expert()));
      if (position == positions_.end()) {
        ++outside_;
        continue;
      }
      const ExpertManifest& composed = experts_[position->second].manifest;
      const std::string want = FileSha256(composed, WeightsFile(composed));
      const std::string& got = scored[group.expert()];
      if (got != want) {
        problems_.Add(
            m.id(),
            absl::StrCat("got a pilot made with ", group.expert(), ", weights ",
                         Short(got), ", want ", composed.id(), ", weights ",
                         Short(want), "; let its owner make the pilots again"));
      }
      ++pointed_[position->second];
    }
  }

  const std::vector<Part>& experts_;
  const bool gated_;
  Problems& problems_;
  std::map<std::string, size_t> positions_;  // by owner/name
  std::vector<const Part*> of_;
  std::vector<int> pointed_;
  int outside_ = 0;
  uint64_t withheld_ = 0;
};

// One gate that is open wide lets in every query: the plan says which is the
// widest.
void AddGateNotes(const Libraries& libraries, std::vector<std::string>& notes) {
  double lowest = 2;
  std::string whose;
  for (const Part* library : libraries.of()) {
    if (library == nullptr) continue;
    for (const v1::PilotGroup& g : library->manifest.pilots().groups()) {
      if (g.gate() >= lowest) continue;
      lowest = g.gate();
      whose = library->manifest.id();
    }
  }
  notes.push_back(absl::StrCat(
      "gate: a query that is farther from every pilot than most of the queries "
      "behind it is answered by the base",
      whose.empty() ? ""
                    : absl::StrFormat("; the widest reaches to cosine %.3f, of "
                                      "%s",
                                      lowest, whose)));
}

void AddPilotNotes(const Libraries& libraries, const std::vector<Part>& experts,
                   std::vector<std::string>& notes) {
  int all = 0, owners = 0;
  for (size_t e = 0; e < experts.size(); ++e) {
    const std::string& id = experts[e].manifest.id();
    all += libraries.pointed()[e];
    if (libraries.of()[e] == nullptr) {
      notes.push_back(absl::StrCat(
          id,
          "'s owner published no pilots: only others' queries say when it "
          "is best"));
    } else {
      ++owners;
    }
    if (libraries.pointed()[e] == 0) {
      notes.push_back(
          absl::StrCat(id,
                       " has no pilot that points to it: it is never "
                       "chosen"));
    }
  }
  notes.push_back(absl::StrCat("pilots: ", all, ", of ", owners, " owners"));
  if (libraries.outside() > 0) {
    notes.push_back(absl::StrCat(
        libraries.outside(),
        " further pilots point to experts that are not in the recipe: they "
        "are not compared"));
  }
  if (libraries.withheld() > 0) {
    notes.push_back(absl::StrCat(
        libraries.withheld(),
        " groups of queries were below their owners' floor and withheld"));
  }
}

}  // namespace

Plan PlanRetriever(const Recipe& recipe, const Part& base,
                   const std::vector<Part>& experts,
                   const std::vector<Part>& pilots) {
  Plan plan;
  Problems problems(plan.problems);
  CheckEncoder(base, problems);
  CheckNames(recipe, experts, problems);
  for (const Part& part : experts) CheckAdapter(part, base, problems);
  const Libraries libraries(experts, pilots, base, recipe.retriever.gate,
                            problems);

  plan.lock = LockOf(recipe, base, experts);
  plan.lock.set_exclusion("exact");
  v1::RetrieverLock& lock = *plan.lock.mutable_retriever();
  lock.set_similarity(recipe.retriever.similarity);
  lock.set_aggregate(recipe.retriever.aggregate);
  lock.set_gate(recipe.retriever.gate);
  plan.parameters = Parameters(base.manifest, "");
  plan.referenced_bytes = FileBytes(base.manifest, "weights.safetensors");
  int64_t largest = 0;
  for (size_t e = 0; e < experts.size(); ++e) {
    const ExpertManifest& m = experts[e].manifest;
    const int64_t own = Parameters(m, "");
    plan.parameters += own;
    largest = std::max(largest, own);
    plan.referenced_bytes += FileBytes(m, WeightsFile(m));
    const Part* library = libraries.of()[e];
    if (library == nullptr) continue;
    v1::LockedPilots& locked = *lock.add_pilots();
    locked.set_id(library->manifest.id());
    locked.set_manifest_sha256(library->manifest_sha256);
    locked.set_weights_sha256(
        FileSha256(library->manifest, "weights.safetensors"));
    locked.set_of(m.id());
    plan.referenced_bytes +=
        FileBytes(library->manifest, "weights.safetensors");
  }
  plan.active_parameters = Parameters(base.manifest, "") + largest;

  plan.notes = {
      "exclusion: exact. Of an expert outside a query's set nothing is read: "
      "its adapter, the pilots that point to it, and those that its owner "
      "made of its own queries; so vectors and results are those of a "
      "composition that never had it. Without any expert the base answers",
      "index: of documents by the base alone; no expert that comes or goes "
      "changes a byte of it",
      "cost: two passes of the encoder a query, one to route it and one with "
      "the chosen adapter"};
  AddPilotNotes(libraries, experts, plan.notes);
  if (recipe.retriever.gate) AddGateNotes(libraries, plan.notes);
  AddNotes(base, experts, /*exact=*/true, plan.notes);
  plan.new_bytes = static_cast<int64_t>(WriteLock(plan.lock).size());
  return plan;
}

void CheckRetrieverLock(const v1::CompositionLock& lock,
                        std::vector<std::string>& problems) {
  const v1::RetrieverLock& retriever = lock.retriever();
  const auto check = [&](bool good, const std::string& problem) {
    if (!good) problems.push_back(problem);
  };
  check(retriever.similarity() == "dot" || retriever.similarity() == "cosine",
        absl::StrCat("retriever.similarity = \"", retriever.similarity(),
                     "\" (want dot or cosine)"));
  check(retriever.aggregate() == "mean" || retriever.aggregate() == "max" ||
            retriever.aggregate() == "weighted",
        absl::StrCat("retriever.aggregate = \"", retriever.aggregate(),
                     "\" (want mean, max or weighted)"));
  int last = -1;
  std::set<std::string> ids;
  for (const v1::LockedPilots& pilots : retriever.pilots()) {
    int position = 0;
    while (position < lock.experts_size() &&
           lock.experts(position).id() != pilots.of()) {
      ++position;
    }
    check(position < lock.experts_size() && position > last,
          absl::StrCat("pilots \"", pilots.id(), "\" of \"", pilots.of(),
                       "\" (want of the lock's experts, in their order, each "
                       "once)"));
    last = std::max(last, position);
    check(!pilots.id().empty() && ids.insert(pilots.id()).second,
          absl::StrCat("pilots \"", pilots.id(), "\" (want ids, each once)"));
    for (const std::string* hex :
         {&pilots.manifest_sha256(), &pilots.weights_sha256()}) {
      check(proto::DigestFromHex(*hex).ok(),
            absl::StrCat("digest of pilots ", pilots.id(), " = \"", *hex,
                         "\" (want 64 hex digits)"));
    }
  }
}

absl::StatusOr<std::unique_ptr<Composition>> LoadRetriever(
    const v1::CompositionLock& lock, const PackageFolder&, const LoadOptions&) {
  return proto::Error(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("composition ", lock.name()),
      "method router_retriever, which finds documents",
      "a composition that writes text",
      absl::StrCat("use `motet search INDEX --composition ", lock.name(),
                   "` or `motet eval retrieval ", lock.name(), "`"));
}

}  // namespace motet::assemble
