// SPDX-License-Identifier: Apache-2.0
// The methods of composition, one row each: how a plan is checked, how a
// composition is loaded and, where it holds more than its lock, written. A
// new method is a file of its own and a row in method.cc.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "compose/assemble/composition.h"

namespace motet::assemble {

struct Method {
  const char* name;
  // The recipe's sections that this method reads; a lock's, by the same names.
  std::vector<const char*> sections;
  bool router;  // routes among experts: its locks have a router
  // Null where plan_pilots is there.
  Plan (*plan)(const Recipe& recipe, const Part& base,
               const std::vector<Part>& experts);
  absl::StatusOr<std::unique_ptr<Composition>> (*load)(
      const v1::CompositionLock& lock, const PackageFolder& folder_of,
      const LoadOptions& options);
  // Null where packages are only referenced.
  absl::Status (*build)(const v1::CompositionLock& lock,
                        const PackageFolder& folder_of,
                        const std::string& folder,
                        const BuildProgress& progress);
  // What a lock of this method must say beside what all do. May be null.
  void (*check_lock)(const v1::CompositionLock& lock,
                     std::vector<std::string>& problems);
  // What the method learns from text that a recipe names and a lock keeps:
  // the last of a plan, and the only one that reads more than manifests. Null
  // where there is no such thing.
  absl::Status (*learn)(const Recipe& recipe, const PackageFolder& folder_of,
                        const BuildProgress& progress,
                        v1::CompositionLock& lock) = nullptr;
  // The plan of a method that composes owners' pilots beside their experts.
  Plan (*plan_pilots)(const Recipe& recipe, const Part& base,
                      const std::vector<Part>& experts,
                      const std::vector<Part>& pilots) = nullptr;
};
const std::vector<Method>& Methods();
const Method* FindMethod(const std::string& name);  // null: no such method
std::string MethodNames();                          // "flexolmo, dume or merge"

// Of rows, in locks and manifests: domain means of norm 1, of experts trained
// alone. The base's is the public mean.
inline constexpr char kMeanRows[] = "domain_mean";
// Of locks: some of these and some trained, of use to "switch" only.
inline constexpr char kMixedRows[] = "mixed";

// How a method's load begins: the experts of `options` into the composition's
// lock, and what the gate needs of it.
absl::Status TakeLock(const v1::CompositionLock& lock,
                      const LoadOptions& options, Composition& composition);
// InvalidArgument where the options ask for another router than the lock's.
absl::Status SameRouter(const v1::CompositionLock& lock,
                        const LoadOptions& options);
// Then the base, which must be dense and have a tokenizer: its model, and its
// config for the composition to go on from.
absl::Status TakeBase(const std::string& folder, Composition& composition);
// What is to be compared with the lock's digests, when the options say.
class Verifier;
absl::Status VerifyWhen(Verify when, const Verifier& verifier,
                        Composition& composition);

// The methods' parts, one file each.
Plan PlanFlexOlmo(const Recipe& recipe, const Part& base,
                  const std::vector<Part>& experts);
absl::StatusOr<std::unique_ptr<Composition>> LoadFlexOlmo(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options);
void CheckFlexOlmoLock(const v1::CompositionLock& lock,
                       std::vector<std::string>& problems);
// Method dume is flexolmo with rows that are solved: its plan and its load.
void CheckDumeLock(const v1::CompositionLock& lock,
                   std::vector<std::string>& problems);
Plan PlanMerge(const Recipe& recipe, const Part& base,
               const std::vector<Part>& experts);
absl::StatusOr<std::unique_ptr<Composition>> LoadMerge(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options);
absl::Status BuildMerge(const v1::CompositionLock& lock,
                        const PackageFolder& folder_of,
                        const std::string& folder,
                        const BuildProgress& progress);
void CheckMergeLock(const v1::CompositionLock& lock,
                    std::vector<std::string>& problems);
Plan PlanBtx(const Recipe& recipe, const Part& base,
             const std::vector<Part>& experts);
absl::StatusOr<std::unique_ptr<Composition>> LoadBtx(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options);
void CheckBtxLock(const v1::CompositionLock& lock,
                  std::vector<std::string>& problems);
Plan PlanBam(const Recipe& recipe, const Part& base,
             const std::vector<Part>& experts);
absl::StatusOr<std::unique_ptr<Composition>> LoadBam(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options);
void CheckBamLock(const v1::CompositionLock& lock,
                  std::vector<std::string>& problems);
// Whether an FFN expert is a model by itself or beside the base's FFN, by
// EnsembleLock::ffn.
bool RunsAlone(const v1::ExpertManifest& expert, const std::string& ffn);
Plan PlanEnsemble(const Recipe& recipe, const Part& base,
                  const std::vector<Part>& experts);
absl::StatusOr<std::unique_ptr<Composition>> LoadEnsemble(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options);
absl::Status LearnEnsemble(const Recipe& recipe, const PackageFolder& folder_of,
                           const BuildProgress& progress,
                           v1::CompositionLock& lock);
void CheckEnsembleLock(const v1::CompositionLock& lock,
                       std::vector<std::string>& problems);
Plan PlanRetriever(const Recipe& recipe, const Part& base,
                   const std::vector<Part>& experts,
                   const std::vector<Part>& pilots);
// Refuses: compose/retrieve loads it, and it is no model of text.
absl::StatusOr<std::unique_ptr<Composition>> LoadRetriever(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options);
void CheckRetrieverLock(const v1::CompositionLock& lock,
                        std::vector<std::string>& problems);

}  // namespace motet::assemble
