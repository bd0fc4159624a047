// SPDX-License-Identifier: Apache-2.0
// The table that says whether a composition is worth it: models down, domains
// across, perplexity (or bits per byte) in the cells. Rows are made from
// compositions, single experts and model directories, in any number; rows
// that are the same arithmetic are run once. docs/evaluation.md has the
// definitions.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
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
  std::string measure = "perplexity";  // what `values` hold; see View
  std::string composition;  // its name, or the names
  std::string router;
  int64_t window = 0;
  std::vector<std::string> models;
  std::vector<std::string> kinds;  // of rows, as MatrixRow has them
  std::vector<std::string> domains;
  std::vector<bool> is_owners;               // [domains]
  std::vector<int64_t> scored_tokens;        // [domains], of the first row
  std::vector<std::vector<double>> values;   // [models][domains]
  std::vector<double> owners;  // geometric means, [models]; empty when no
  std::vector<double> all;     // domain is an owner's
  std::vector<std::vector<double>> bits_per_byte;  // [models][domains]
  std::vector<std::vector<int64_t>> scored_bytes;  // [models][domains]
  bool one_tokenizer = true;  // otherwise bits per byte alone compare
};

// The kinds of rows.
inline const std::vector<std::string> kRowKinds = {
    "base", "pair", "only", "composition", "without", "model"};

// One model of a matrix: a mask on a loaded one.
struct MatrixRow {
  std::string name;
  std::string kind;  // of kRowKinds
  std::shared_ptr<const assemble::ServedModel> model;
  // A view of `model`'s decoder. Null: what `model` answers with for `allowed`,
  // made when it is the row's turn.
  std::shared_ptr<const model::Decoder> decoder;
  math::ExpertMask allowed = ~math::ExpertMask{0};
  std::string arithmetic;  // equal texts: the same arithmetic
  std::string tokenizer;   // equal texts: the same tokenizer
};

// Rows of a composition: the base; every expert beside the base, as its owner
// trained it (top-2 over the pair), or, in a merge, the merge of it alone; the
// composition; the composition without each expert. The pair of an expert is
// the composition's own weights under the trained rows with everything else
// masked, which by the exclusion guarantee is that pair. named: "NAME" and
// "NAME without code" instead of "composition" and "without code", for tables
// of several.
absl::StatusOr<std::vector<MatrixRow>> CompositionRows(
    std::shared_ptr<const assemble::Composition> composition, bool named);
// The base and each expert beside it, without the composition.
absl::StatusOr<std::vector<MatrixRow>> PairRows(
    std::shared_ptr<const assemble::Composition> composition);
// A model directory by its name, whole.
std::vector<MatrixRow> DirectoryRows(
    std::shared_ptr<const assemble::ServedModel> model,
    const std::string& weights_key, const std::string& tokenizer_key);

// Leaves rows of these kinds alone; an error when there is none.
absl::Status KeepKinds(const std::vector<std::string>& kinds,
                       std::vector<MatrixRow>& rows);

// Measures the rows in their order; of rows with one name and one arithmetic
// (a base that two compositions share) the first stays, and of rows with one
// name and two arithmetics the later ones get a number. owners: the names of
// domains that are an expert's.
absl::StatusOr<Matrix> MeasureRows(std::vector<MatrixRow> rows,
                                   const std::vector<std::string>& owners,
                                   const std::vector<Domain>& domains,
                                   const MatrixOptions& options);
// The rows of one composition.
absl::StatusOr<Matrix> MeasureMatrix(const assemble::Composition& composition,
                                     const std::vector<Domain>& domains,
                                     const MatrixOptions& options);

// The same table in another measure, for MatrixTable's caller and MatrixSvg:
// bits per byte instead of perplexity; each value divided by the first row's
// of its column.
struct View {
  bool bits_per_byte = false;
  bool relative = false;
};
Matrix Viewed(const Matrix& matrix, const View& view);

// {"models": [...], "domains": [...], "values": [[...]], "means": {...}, ...}
std::string MatrixJson(const Matrix& matrix);
// One line a cell: model,kind,domain,perplexity,bits_per_byte,relative,bytes;
// the means have the domains "(owners)" and "(all)" and no bytes.
std::string MatrixCsv(const Matrix& matrix);

// A self-contained picture of the same: colour by the ratio to the base, in
// each column; the best of a column framed.
std::string MatrixSvg(const Matrix& matrix);

}  // namespace motet::measure
