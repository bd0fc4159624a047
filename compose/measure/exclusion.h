// SPDX-License-Identifier: Apache-2.0
// The exclusion guarantee, measured: the logits of a query that excludes an
// expert against those of a composition into which it never went, bit for
// bit (DESIGN 4.6; docs/exclusion.md has the argument).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/composition.h"

namespace motet::measure {

// SHA-256 (hex) over the raw f32 logits [n,V] of `ids`.
//   chunk == 0: one forward pass without a cache.
//   chunk > 0:  prefill through a cache in uneven pieces of at most `chunk`.
std::string LogitsSha256(const model::Scorer& scorer,
                         std::span<const int32_t> ids, int64_t chunk,
                         math::Product product = math::Product::kExact);
// The same of a decoder under one expert set.
std::string LogitsSha256(const model::Decoder& decoder,
                         std::span<const int32_t> ids,
                         math::ExpertMask allowed, int64_t chunk,
                         math::Product product = math::Product::kExact);

struct ExclusionProof {
  std::string expert;                 // id
  std::string excluded_sha256;        // whole composition, expert masked
  std::string never_composed_sha256;  // composition without the expert
  std::string excluded_chunked_sha256;
  std::string never_composed_chunked_sha256;
  std::string included_sha256;  // with the expert: shows that it took part
  bool equal() const {
    return excluded_sha256 == never_composed_sha256 &&
           excluded_sha256 == excluded_chunked_sha256 &&
           excluded_sha256 == never_composed_chunked_sha256;
  }
};
// One proof for every position (1..) asked for.
absl::StatusOr<std::vector<ExclusionProof>> ProveExclusion(
    const v1::CompositionLock& lock,
    const assemble::PackageFolder& folder_of, const std::vector<int>& experts,
    std::span<const int32_t> ids,
    const std::function<void(double, const std::string&)>& progress = {},
    math::Product product = math::Product::kExact,
    const std::string& folder = "");  // of the composition (LoadOptions)

}  // namespace motet::measure
