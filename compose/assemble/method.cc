// SPDX-License-Identifier: Apache-2.0
#include "compose/assemble/method.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compose/assemble/tuning.h"
#include "compose/assemble/verify.h"
#include "proto/digest.h"
#include "proto/error.h"

namespace motet::assemble {

const std::vector<Method>& Methods() {
  static const auto* const methods = new std::vector<Method>{
      {"flexolmo",
       {"router", "tuning"},
       true,
       PlanFlexOlmo,
       LoadFlexOlmo,
       nullptr,
       CheckFlexOlmoLock},
      {"dume",
       {"router"},
       true,
       PlanFlexOlmo,
       LoadFlexOlmo,
       nullptr,
       CheckDumeLock},
      {"merge",
       {"merge"},
       false,
       PlanMerge,
       LoadMerge,
       BuildMerge,
       CheckMergeLock},
      {"btx",
       {"router", "btx", "tuning"},
       true,
       PlanBtx,
       LoadBtx,
       nullptr,
       CheckBtxLock},
      {"bam",
       {"router", "bam", "tuning"},
       true,
       PlanBam,
       LoadBam,
       nullptr,
       CheckBamLock},
      {"ensemble",
       {"ensemble"},
       false,
       PlanEnsemble,
       LoadEnsemble,
       nullptr,
       CheckEnsembleLock,
       LearnEnsemble},
      {"router_retriever",
       {"retriever"},
       false,
       nullptr,
       LoadRetriever,
       nullptr,
       CheckRetrieverLock,
       nullptr,
       PlanRetriever},
  };
  return *methods;
}

const Method* FindMethod(const std::string& name) {
  for (const Method& method : Methods()) {
    if (name == method.name) return &method;
  }
  return nullptr;
}

std::string MethodNames() {
  std::vector<std::string> names;
  for (const Method& method : Methods()) names.emplace_back(method.name);
  const std::string last = names.back();
  names.pop_back();
  return absl::StrCat(absl::StrJoin(names, ", "), " or ", last);
}

Plan MakePlan(const Recipe& recipe, const Part& base,
              const std::vector<Part>& experts,
              const std::vector<Part>& pilots) {
  if (const Method* method = FindMethod(recipe.method)) {
    return method->plan_pilots != nullptr
               ? method->plan_pilots(recipe, base, experts, pilots)
               : method->plan(recipe, base, experts);
  }
  Plan plan;
  plan.problems = {absl::StrCat("[recipe] got method \"", recipe.method,
                                "\", want ", MethodNames())};
  return plan;
}

absl::StatusOr<std::unique_ptr<Composition>> LoadComposition(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options) {
  const Method* method = FindMethod(lock.method());
  if (method == nullptr) {
    return proto::Invalid(absl::StrCat("lock of ", lock.name()),
                          absl::StrCat("method \"", lock.method(), "\""),
                          MethodNames());
  }
  return method->load(lock, folder_of, options);
}

bool TakesPilots(const std::string& name) {
  const Method* method = FindMethod(name);
  return method != nullptr && method->plan_pilots != nullptr;
}

bool HoldsWeights(const v1::CompositionLock& lock) {
  const Method* method = FindMethod(lock.method());
  return method != nullptr && method->build != nullptr;
}

absl::Status BuildComposition(const v1::CompositionLock& lock,
                              const PackageFolder& folder_of,
                              const std::string& folder,
                              const BuildProgress& progress) {
  if (!HoldsWeights(lock)) return absl::OkStatus();
  return FindMethod(lock.method())->build(lock, folder_of, folder, progress);
}

absl::Status LearnLock(const Recipe& recipe, const PackageFolder& folder_of,
                       const BuildProgress& progress,
                       v1::CompositionLock& lock) {
  const Method* method = FindMethod(lock.method());
  if (method == nullptr || method->learn == nullptr) return absl::OkStatus();
  return method->learn(recipe, folder_of, progress, lock);
}

absl::StatusOr<v1::CompositionLock> SelectExperts(
    const v1::CompositionLock& lock, const LoadOptions& options) {
  v1::CompositionLock selected = lock;
  if (options.all) return selected;
  selected.clear_experts();
  selected.mutable_merge()->clear_weights();
  const v1::PriorLock& prior = lock.ensemble().prior();
  if (lock.ensemble().has_prior()) {
    selected.mutable_ensemble()->mutable_prior()->clear_experts();
  }
  std::set<int> seen;
  for (const int e : options.only) {
    if (e < 1 || e > lock.experts_size() || !seen.insert(e).second) {
      return proto::Invalid("composition", absl::StrCat("expert position ", e),
                            absl::StrCat("1 to ", lock.experts_size(),
                                         ", each once"));
    }
  }
  // Ascending, whatever the caller's order: order is part of the arithmetic.
  for (const int e : seen) {
    *selected.add_experts() = lock.experts(e - 1);
    if (e <= lock.merge().weights_size()) {
      selected.mutable_merge()->add_weights(lock.merge().weights(e - 1));
    }
    if (e <= prior.experts_size()) {
      *selected.mutable_ensemble()->mutable_prior()->add_experts() =
          prior.experts(e - 1);
    }
  }
  if (!lock.has_merge()) selected.clear_merge();
  if (lock.has_retriever()) {
    // What an expert's owner says of its queries goes with the expert.
    selected.mutable_retriever()->clear_pilots();
    for (const v1::LockedPilots& pilots : lock.retriever().pilots()) {
      const bool kept = std::any_of(
          selected.experts().begin(), selected.experts().end(),
          [&](const auto& expert) { return expert.id() == pilots.of(); });
      if (kept) *selected.mutable_retriever()->add_pilots() = pilots;
    }
  }
  // Tuned in the presence of all, they are nobody else's.
  if (selected.experts_size() != lock.experts_size()) {
    return BeforeTuning(std::move(selected));
  }
  return selected;
}

void DescribeServed(const v1::CompositionLock& lock, Served& served) {
  served.name = lock.name();
  served.lock_sha256 = proto::Hex(proto::Sha256(WriteLock(lock)));
  served.exact_exclusion = lock.exclusion() == "exact";
  served.experts = ServedExperts(lock);
}

absl::Status TakeLock(const v1::CompositionLock& lock,
                      const LoadOptions& options, Composition& composition) {
  MOTET_ASSIGN_OR_RETURN(composition.lock, SelectExperts(lock, options));
  DescribeServed(composition.lock, composition);
  return absl::OkStatus();
}

absl::Status SameRouter(const v1::CompositionLock& lock,
                        const LoadOptions& options) {
  if (options.router.empty() || options.router == lock.router().kind()) {
    return absl::OkStatus();
  }
  return proto::Invalid(
      "composition", absl::StrCat("router \"", options.router, "\""),
      absl::StrCat("\"", lock.router().kind(), "\", the lock's"),
      "compose again for another kind");
}

absl::Status TakeBase(const std::string& folder, Composition& composition) {
  MOTET_ASSIGN_OR_RETURN(composition.base, package::LoadModel(folder));
  if (composition.base->tokenizer == nullptr) {
    return proto::Invalid(folder, "no tokenizer.json", "one");
  }
  composition.config = composition.base->config;
  if (composition.config.experts != 0) {
    return proto::Invalid(folder, "a base with experts", "a dense one");
  }
  return absl::OkStatus();
}

absl::Status VerifyWhen(Verify when, const Verifier& verifier,
                        Composition& composition) {
  if (when == Verify::kNow) return verifier.Files();
  if (when == Verify::kLater) {
    composition.verify = [verifier] { return verifier.Files(); };
  }
  return absl::OkStatus();
}

std::vector<ServedExpert> ServedExperts(const v1::CompositionLock& lock) {
  ServedExpert base;
  base.id = lock.base().id();
  base.manifest_sha256 = lock.base().manifest_sha256();
  base.always = true;
  std::vector<ServedExpert> experts = {base};
  for (const v1::LockedExpert& locked : lock.experts()) {
    experts.push_back({locked.id(), locked.domain(), locked.licence(),
                       locked.manifest_sha256(), false});
  }
  return experts;
}

}  // namespace motet::assemble
