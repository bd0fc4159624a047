// SPDX-License-Identifier: Apache-2.0
// A matrix in another measure, as JSON and as CSV.
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "compose/measure/matrix.h"
#include "compose/measure/means.h"
#include "nlohmann/json.hpp"

namespace motet::measure {
namespace {

std::vector<double> Means(const std::vector<std::vector<double>>& values,
                          const std::vector<bool>* of) {
  std::vector<double> means;
  for (const auto& row : values) means.push_back(GeometricMean(row, of));
  return means;
}

void Divide(std::vector<double>& column) {
  if (column.empty()) return;
  const double base = column[0];
  for (double& value : column) value /= base;
}

std::string Quoted(const std::string& field) {
  if (field.find_first_of(",\"\n\r") == std::string::npos) return field;
  return absl::StrCat("\"", absl::StrReplaceAll(field, {{"\"", "\"\""}}),
                      "\"");
}

}  // namespace

Matrix Viewed(const Matrix& matrix, const View& view) {
  Matrix seen = matrix;
  if (view.bits_per_byte) {
    seen.measure = "bits per byte";
    seen.values = matrix.bits_per_byte;
    seen.all = Means(seen.values, nullptr);
    if (!matrix.owners.empty()) {
      seen.owners = Means(seen.values, &matrix.is_owners);
    }
  }
  if (view.relative) {
    absl::StrAppend(&seen.measure, ", relative");
    const std::vector<double> base = seen.values[0];
    for (auto& row : seen.values) {
      for (size_t d = 0; d < row.size(); ++d) row[d] /= base[d];
    }
    Divide(seen.all);
    Divide(seen.owners);
  }
  return seen;
}

std::string MatrixJson(const Matrix& matrix) {
  nlohmann::ordered_json json;
  json["composition"] = matrix.composition;
  json["router"] = matrix.router;
  json["window"] = matrix.window;
  json["models"] = matrix.models;
  json["domains"] = matrix.domains;
  json["values"] = matrix.values;
  json["owner_domains"] = matrix.is_owners;
  json["scored_tokens"] = matrix.scored_tokens;
  json["means"] = {{"owners", matrix.owners}, {"all", matrix.all}};
  json["kinds"] = matrix.kinds;
  json["bits_per_byte"] = matrix.bits_per_byte;
  json["scored_bytes"] = matrix.scored_bytes;
  json["one_tokenizer"] = matrix.one_tokenizer;
  return json.dump(2, ' ', false,
                   nlohmann::ordered_json::error_handler_t::replace) +
         "\n";
}

std::string MatrixCsv(const Matrix& matrix) {
  const Matrix bits = Viewed(matrix, {.bits_per_byte = true});
  const Matrix relative = Viewed(
      matrix, {.bits_per_byte = !matrix.one_tokenizer, .relative = true});
  std::string out =
      "model,kind,domain,perplexity,bits_per_byte,relative,bytes\n";
  for (size_t r = 0; r < matrix.models.size(); ++r) {
    const auto line = [&](const std::string& domain, double perplexity,
                          double bit, double ratio,
                          const std::string& bytes) {
      absl::StrAppendFormat(&out, "%s,%s,%s,%.9g,%.9g,%.9g,%s\n",
                            Quoted(matrix.models[r]), matrix.kinds[r],
                            Quoted(domain), perplexity, bit, ratio, bytes);
    };
    for (size_t d = 0; d < matrix.domains.size(); ++d) {
      line(matrix.domains[d], matrix.values[r][d], bits.values[r][d],
           relative.values[r][d], absl::StrCat(matrix.scored_bytes[r][d]));
    }
    if (!matrix.owners.empty()) {
      line("(owners)", matrix.owners[r], bits.owners[r], relative.owners[r],
           "");
    }
    line("(all)", matrix.all[r], bits.all[r], relative.all[r], "");
  }
  return out;
}

}  // namespace motet::measure
