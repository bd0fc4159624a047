// SPDX-License-Identifier: Apache-2.0
// Plan (pure data, all incompatibilities at once), lock, and the composed
// model that a lock describes. Packages are referenced, never rewritten.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/recipe.h"
#include "compose/assemble/served_model.h"
#include "compose/model/decoder.h"
#include "compose/package/huggingface.h"
#include "lock.pb.h"
#include "manifest.pb.h"

namespace motet::assemble {

// Bit 0 of an expert set is the base's.
inline constexpr int kMaxExperts = math::kMaxExperts - 1;

// A verified package folder that takes part (compose/package OpenPackage).
struct Part {
  std::string folder;
  v1::ExpertManifest manifest;
  std::string manifest_sha256;  // hex
  uint64_t log_index = 0;
  bool revoked = false;
};

struct Plan {
  v1::CompositionLock lock;            // what apply would write
  std::vector<std::string> problems;   // empty = can be applied
  std::vector<std::string> notes;      // guarantees, licence consequences
  int64_t parameters = 0;              // of the composed model
  int64_t active_parameters = 0;       // per token
  int64_t new_bytes = 0;               // that apply writes (metadata)
  int64_t referenced_bytes = 0;        // that packages hold
};
// Never fails on content: problems say what does not fit, all at once.
// pilots: for methods that take them (TakesPilots), those of any of the
// experts, in any order.
Plan MakePlan(const Recipe& recipe, const Part& base,
              const std::vector<Part>& experts,
              const std::vector<Part>& pilots = {});
bool TakesPilots(const std::string& method);

// motet.lock: canonical JSON text; same plan, same bytes.
std::string WriteLock(const v1::CompositionLock& lock);
absl::StatusOr<v1::CompositionLock> ParseLock(const std::string& json,
                                              const std::string& where);

// A composition ready to run: expert 0 is the base, then the lock's order.
struct Composition : ServedModel {
  v1::CompositionLock lock;
  std::vector<std::shared_ptr<const package::SafetensorsFile>> files;
  std::vector<std::unique_ptr<float[]>> storage;  // router rows, w_e, c_e
  // With Verify::kLater: what is left to do before anything that was made of
  // this composition may be used. Null: nothing.
  std::function<absl::Status()> verify;
};
// When the files' bytes are compared with the lock's digests (the manifests'
// always are at once).
enum class Verify : uint8_t {
  kNow,
  kFresh,  // they were, by this caller, a moment ago
  kLater,  // by Composition::verify; a method may do it at once all the same
};
// folder_of: where the package with this manifest SHA-256 lies.
using PackageFolder =
    std::function<absl::StatusOr<std::string>(const std::string& sha256)>;
// only: build from these expert positions of the lock alone (1..; for
// "never composed" proofs and ablations); empty with all == true means all.
struct LoadOptions {
  bool all = true;
  std::vector<int> only;
  std::string router;  // "" = the lock's; or "anchored", "topk"
  // Where BuildComposition wrote. "" = made again, in memory, by a method
  // that would have written.
  std::string folder;
  // For weights of expert sets other than all, which such a method makes when
  // a query asks for one (ServedModel::DecoderFor).
  int64_t set_bytes = int64_t{2} << 30;
  Verify verify = Verify::kNow;
};
absl::StatusOr<std::unique_ptr<Composition>> LoadComposition(
    const v1::CompositionLock& lock, const PackageFolder& folder_of,
    const LoadOptions& options = {});

// True where a composition is more than its lock: the method makes weights.
bool HoldsWeights(const v1::CompositionLock& lock);
// Writes these into `folder`, which exists; the caller's to put in place when
// all is well. Streams: memory does not grow with the model. Same lock, same
// bytes.
using BuildProgress = std::function<void(double fraction)>;
absl::Status BuildComposition(const v1::CompositionLock& lock,
                              const PackageFolder& folder_of,
                              const std::string& folder,
                              const BuildProgress& progress = {});

// What a method learns from text that the recipe names, into the plan's lock.
// Any number of times: the same text gives the same lock. Does nothing where
// the recipe names none.
absl::Status LearnLock(const Recipe& recipe, const PackageFolder& folder_of,
                       const BuildProgress& progress,
                       v1::CompositionLock& lock);

// What methods share. The lock of options.only alone, in the lock's order;
// InvalidArgument for positions that are not.
absl::StatusOr<v1::CompositionLock> SelectExperts(
    const v1::CompositionLock& lock, const LoadOptions& options);
// The lock's experts as the gate sees them, the base first.
std::vector<ServedExpert> ServedExperts(const v1::CompositionLock& lock);
// All that the gate needs, and whoever shows what answers: name, digest,
// guarantee, experts.
void DescribeServed(const v1::CompositionLock& lock, Served& served);

}  // namespace motet::assemble
