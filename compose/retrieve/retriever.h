// SPDX-License-Identifier: Apache-2.0
// A retrieval composition at serving (METHODS 9): the frozen base encoder, the
// experts' adapters and the pilots that route queries among them. A search or
// an embedding asks for the QueryEncoder of its expert set; nothing of an
// expert outside the set is read: not its adapter, not the pilots that point
// to it, and not those that its owner made.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/composition.h"
#include "compose/assemble/served_model.h"
#include "compose/math/operators.h"
#include "compose/package/peft.h"
#include "compose/retrieve/pilots.h"
#include "compose/retrieve/text_encoder.h"
#include "lock.pb.h"

namespace motet::retrieve {

class Retriever : public assemble::Served {
 public:
  // A composition by its lock, or (options.only) its part as if the others had
  // never been composed. Of LoadOptions, `all`, `only` and `verify` count;
  // what kLater puts off is done at once. Expert 0 is the base.
  static absl::StatusOr<std::unique_ptr<Retriever>> Load(
      const v1::CompositionLock& lock, const assemble::PackageFolder& folder_of,
      math::Product product, const assemble::LoadOptions& options = {});
  // An encoder's folder as it lies: no experts, every query by the base.
  static absl::StatusOr<std::unique_ptr<Retriever>> OfDirectory(
      const std::string& folder, math::Product product);

  const TextEncoder& base() const { return *base_; }
  // As composed: of options.only alone. Empty for a directory.
  const v1::CompositionLock& lock() const { return lock_; }
  // Routes each query among the experts of the set; the base answers where
  // the set has none with pilots. An expert's name is its id. This must
  // outlive it. Thread-safe.
  std::unique_ptr<QueryEncoder> QueriesFor(math::ExpertMask set) const;
  // Pilots that queries of the set are compared with.
  int64_t PilotsFor(math::ExpertMask set) const;

  absl::Status CheckActive(uint32_t active) const override;

 private:
  // One owner's pilots: [N,C], and whose each is, by position in the lock.
  struct Library {
    int expert = 0;  // that it goes with
    std::vector<float> vectors;
    std::vector<int> experts;
    std::vector<int64_t> queries;  // behind each
    std::vector<double> gates;     // of each, where the lock asks for them
  };
  Retriever() = default;
  absl::Status Init(const assemble::PackageFolder& folder_of,
                    math::Product product,
                    const assemble::LoadOptions& options);
  absl::StatusOr<Library> ReadLibrary(const v1::LockedPilots& locked,
                                      const std::string& folder,
                                      const v1::ExpertManifest& manifest) const;
  PilotRouter RouterFor(math::ExpertMask set) const;

  std::unique_ptr<TextEncoder> base_;
  v1::CompositionLock lock_;
  // By position; 0, the base, has none.
  std::vector<std::unique_ptr<package::LoadedLora>> adapters_;
  std::vector<Library> libraries_;
};

}  // namespace motet::retrieve
