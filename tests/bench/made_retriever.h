// SPDX-License-Identifier: Apache-2.0
// A retrieval composition for benchmarks: an encoder's folder as the base
// package, four adapters with random factors (rank 8 on query and value), and
// each owner's pilots of all four, made of vectors of the base. Unsigned, as
// nothing here asks a registry.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/retrieve/retriever.h"

namespace motet::bench {

inline constexpr int kMadeExperts = 4;

// Query n: twelve common words, different from others' by its number.
std::string MadeQuery(int n);

struct MadeRetriever {
  std::unique_ptr<retrieve::Retriever> retriever;
  // All pilots and whose they are, as the retriever compares them.
  std::vector<float> pilots;  // [N,C]
  std::vector<int> experts;
};
// Packages are written to `folder`, which is emptied first.
absl::StatusOr<MadeRetriever> MakeRetriever(const std::string& encoder,
                                            const std::string& folder,
                                            math::Product product);

}  // namespace motet::bench
