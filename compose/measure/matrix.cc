// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/matrix.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/learn/corpus.h"
#include "compose/measure/means.h"
#include "compose/measure/perplexity.h"
#include "proto/error.h"

namespace motet::measure {
namespace {

// A domain under one tokenizer.
struct Text {
  std::vector<learn::TokenWindows> windows;  // [domains]
  std::vector<int64_t> bytes;                // [domains], of scored tokens
};

absl::StatusOr<Text> Tokenize(const assemble::ServedModel& model, bool strict,
                              const std::vector<Domain>& domains,
                              const MatrixOptions& options) {
  const model::Tokenizer& tokenizer = model.tokenizer();
  const int32_t separator =
      strict ? tokenizer.IdOf("<|endoftext|>")
             : learn::SeparatorOf(tokenizer, model.config.eos_id);
  if (separator < 0) {
    return proto::Invalid("matrix", "a tokenizer without <|endoftext|>",
                          "one with it, to join documents");
  }
  Text text;
  for (const Domain& domain : domains) {
    text.windows.emplace_back(tokenizer, domain.documents, separator,
                              options.window);
    if (text.windows.back().count() == 0) {
      return proto::Invalid(
          absl::StrCat("domain ", domain.name),
          absl::StrCat(text.windows.back().tokens(), " tokens"),
          absl::StrCat("at least one window of ", options.window),
          "give more text or a smaller --window");
    }
    text.bytes.push_back(
        ScoredBytes(tokenizer, text.windows.back(), options.max_tokens));
  }
  return text;
}

absl::Status CheckDomains(const std::vector<Domain>& domains) {
  if (domains.empty()) {
    return proto::Invalid("matrix", "no domain", "at least one",
                          "give --domain NAME=FILE.jsonl");
  }
  std::set<std::string> names;
  for (const Domain& domain : domains) {
    if (!names.insert(domain.name).second) {
      return proto::Invalid("matrix",
                            absl::StrCat("domain ", domain.name, " twice"),
                            "each once");
    }
  }
  return absl::OkStatus();
}

// Each name once: rows that are the same in both are one.
std::vector<MatrixRow> Distinct(std::vector<MatrixRow> rows) {
  std::map<std::string, std::vector<std::string>> known;  // name: arithmetics
  std::vector<MatrixRow> distinct;
  for (MatrixRow& row : rows) {
    auto& same = known[row.name];
    if (std::count(same.begin(), same.end(), row.arithmetic) > 0) continue;
    same.push_back(row.arithmetic);
    if (same.size() > 1) absl::StrAppend(&row.name, " (", same.size(), ")");
    distinct.push_back(std::move(row));
  }
  return distinct;
}

}  // namespace

absl::StatusOr<Matrix> MeasureRows(std::vector<MatrixRow> rows,
                                   const std::vector<std::string>& owners,
                                   const std::vector<Domain>& domains,
                                   const MatrixOptions& options) {
  MOTET_RETURN_IF_ERROR(CheckDomains(domains));
  rows = Distinct(std::move(rows));
  Matrix matrix;
  matrix.window = options.window;
  for (const Domain& domain : domains) {
    matrix.domains.push_back(domain.name);
    matrix.is_owners.push_back(
        std::count(owners.begin(), owners.end(), domain.name) > 0);
  }

  // Tokenized once; the documents are of no further use.
  std::map<std::string, Text> texts;
  std::set<std::string> distinct;
  int64_t total = 0, done = 0;
  for (const MatrixRow& row : rows) {
    if (texts.count(row.tokenizer) == 0) {
      MOTET_ASSIGN_OR_RETURN(
          texts[row.tokenizer],
          Tokenize(*row.model, row.kind != "model", domains, options));
    }
    if (!distinct.insert(row.arithmetic).second) continue;
    for (const auto& w : texts[row.tokenizer].windows) {
      total += CappedWindows(w, options.max_tokens) * options.window;
    }
  }
  matrix.one_tokenizer = texts.size() <= 1;

  std::map<std::pair<std::string, size_t>, Score> known;
  for (const MatrixRow& row : rows) {
    const Text& text = texts[row.tokenizer];
    std::vector<double> values, bits;
    std::shared_ptr<const model::Scorer> scorer;
    for (size_t d = 0; d < domains.size(); ++d) {
      const auto key = std::make_pair(row.arithmetic, d);
      if (known.count(key) == 0) {
        if (scorer == nullptr && row.decoder != nullptr) {
          scorer =
              std::make_shared<model::DecoderScorer>(row.decoder, row.allowed);
        } else if (scorer == nullptr) {
          MOTET_ASSIGN_OR_RETURN(scorer, row.model->ScorerFor(row.allowed));
        }
        ScoreOptions score;
        score.max_tokens = options.max_tokens;
        score.product = options.product;
        score.progress = [&](int64_t tokens) {
          done += tokens;
          if (!options.progress) return;
          options.progress(static_cast<double>(done) / total,
                           absl::StrCat(row.name, " on ", matrix.domains[d]));
        };
        MOTET_ASSIGN_OR_RETURN(known[key],
                               ScoreWindows(*scorer, text.windows[d], score));
      }
      const Score& result = known[key];
      if (matrix.models.empty()) matrix.scored_tokens.push_back(result.tokens);
      values.push_back(result.Perplexity());
      bits.push_back(result.BitsPerByte(text.bytes[d]));
    }
    matrix.models.push_back(row.name);
    matrix.kinds.push_back(row.kind);
    matrix.all.push_back(GeometricMean(values, nullptr));
    if (std::count(matrix.is_owners.begin(), matrix.is_owners.end(), true)) {
      matrix.owners.push_back(GeometricMean(values, &matrix.is_owners));
    }
    matrix.values.push_back(std::move(values));
    matrix.bits_per_byte.push_back(std::move(bits));
    matrix.scored_bytes.push_back(text.bytes);
  }
  return matrix;
}

absl::StatusOr<Matrix> MeasureMatrix(const assemble::Composition& composition,
                                     const std::vector<Domain>& domains,
                                     const MatrixOptions& options) {
  // The caller keeps it for as long as this runs.
  const std::shared_ptr<const assemble::Composition> borrowed(
      &composition, [](const assemble::Composition*) {});
  MOTET_ASSIGN_OR_RETURN(std::vector<MatrixRow> rows,
                         CompositionRows(borrowed, /*named=*/false));
  std::vector<std::string> owners;
  for (const v1::LockedExpert& e : composition.lock.experts()) {
    owners.push_back(e.domain());
  }
  MOTET_ASSIGN_OR_RETURN(
      Matrix matrix, MeasureRows(std::move(rows), owners, domains, options));
  matrix.composition = composition.lock.name();
  matrix.router = composition.lock.router().kind();
  return matrix;
}

}  // namespace motet::measure
