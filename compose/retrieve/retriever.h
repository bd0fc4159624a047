// SPDX-License-Identifier: Apache-2.0
// A retrieval composition at serving (METHODS 9): the frozen base encoder, the
// experts' adapters and the pilots that route queries among them. A search or
// an embedding asks for the QueryEncoder of its expert set; nothing of an
// expert outside the set is read.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/composition.h"
#include "compose/assemble/served_model.h"
#include "compose/math/operators.h"
#include "compose/retrieve/text_encoder.h"
#include "lock.pb.h"

namespace motet::retrieve {

class Retriever : public assemble::Served {
 public:
  // A composition by its lock, or (options.only) its part as if the others had
  // never been composed. Of LoadOptions, `all`, `only` and `verify` count.
  static absl::StatusOr<std::unique_ptr<Retriever>> Load(
      const v1::CompositionLock& lock, const assemble::PackageFolder& folder_of,
      math::Product product, const assemble::LoadOptions& options = {});
  // An encoder's folder as it lies: no experts, every query by the base.
  static absl::StatusOr<std::unique_ptr<Retriever>> OfDirectory(
      const std::string& folder, math::Product product);

  const TextEncoder& base() const { return *base_; }
  // Routes each query among the experts of the set; the base answers where
  // the set has none with pilots. This must outlive it.
  std::unique_ptr<QueryEncoder> QueriesFor(math::ExpertMask set) const;

  absl::Status CheckActive(uint32_t active) const override;

 private:
  std::unique_ptr<TextEncoder> base_;
};

}  // namespace motet::retrieve
