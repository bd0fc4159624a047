// SPDX-License-Identifier: Apache-2.0
// The table that says whether a composition is worth it: models down, domains
// across, perplexity in the cells.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/assemble/composition.h"

namespace motet::measure {

struct Domain {
  std::string name;  // an owner's when it is an expert's domain label
  std::vector<std::string> documents;
};
struct MatrixOptions {
  int64_t window = 256;
  int64_t max_tokens = 0;  // of text, a domain; 0 = all
  math::Product product = math::Product::kExact;
  std::function<void(double fraction, const std::string& detail)> progress;
};
struct Matrix {
  std::string composition;  // its name
  std::string router;
  int64_t window = 0;
  std::vector<std::string> models;
  std::vector<std::string> domains;
  std::vector<bool> is_owners;               // [domains]
  std::vector<int64_t> scored_tokens;        // [domains]
  std::vector<std::vector<double>> values;   // [models][domains]
  std::vector<double> owners;  // geometric means, [models]; empty when no
  std::vector<double> all;     // domain is an owner's
};

// Rows: the base; every expert beside the base, as its owner trained it
// (top-2 over the pair), or, in a merge, the merge of it alone; the
// composition; the composition without each expert. The pair of an expert is
// the composition's own weights under the trained rows with everything else
// masked, which by the exclusion guarantee is that pair; rows with the same
// router and the same set are run once.
absl::StatusOr<Matrix> MeasureMatrix(const assemble::Composition& composition,
                                     const std::vector<Domain>& domains,
                                     const MatrixOptions& options);

// {"models": [...], "domains": [...], "values": [[...]], "means": {...}, ...}
std::string MatrixJson(const Matrix& matrix);

// A self-contained picture of the same: colour by the ratio to the base, in
// each column; the best of a column framed.
std::string MatrixSvg(const Matrix& matrix);

}  // namespace motet::measure
