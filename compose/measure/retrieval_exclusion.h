// SPDX-License-Identifier: Apache-2.0
// The exclusion guarantee of a retrieval composition, measured: vectors and
// the best documents of queries that leave experts out, against those of a
// composition into which these never went, bit for bit (docs/exclusion.md).
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/composition.h"
#include "compose/math/operators.h"
#include "compose/retrieve/index.h"
#include "compose/retrieve/retriever.h"

namespace motet::measure {

// SHA-256 (hex), for every query: the expert that answers, its f32 vector [C],
// and rows and scores (f64) of the 10 best documents.
// FailedPrecondition: the index was built with another base.
absl::StatusOr<std::string> RetrievalSha256(
    const retrieve::QueryEncoder& encoder, const retrieve::Index& index,
    std::span<const std::string> queries);

struct RetrievalProof {
  std::vector<std::string> without;   // ids
  std::string excluded_sha256;        // whole composition, these left out
  std::string never_composed_sha256;  // composition of the others alone
  std::string included_sha256;        // of all experts
  bool equal() const { return excluded_sha256 == never_composed_sha256; }
};

// Sets to leave out that are worth a proof, of expert positions (bit 0, the
// base's, is never in one): with at most four experts every set but the empty
// one, else all experts of each owner.
std::vector<math::ExpertMask> SetsToLeaveOut(const v1::CompositionLock& lock);

// One proof for each set of experts to leave out. InvalidArgument: no query,
// or a set that names the base, nobody, or a position beyond the lock's.
absl::StatusOr<std::vector<RetrievalProof>> ProveRetrievalExclusion(
    const v1::CompositionLock& lock, const assemble::PackageFolder& folder_of,
    const std::vector<math::ExpertMask>& without, const retrieve::Index& index,
    std::span<const std::string> queries, math::Product product,
    const std::function<void(double, const std::string&)>& progress = {});

}  // namespace motet::measure
