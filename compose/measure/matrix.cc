// SPDX-License-Identifier: Apache-2.0
#include "compose/measure/matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compose/measure/perplexity.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::measure {
namespace {

struct Row {
  std::string name;
  bool pair;  // routed by the trained rows, not by the composition's router
  math::ExpertMask allowed;
};

// Rows with equal keys are the same arithmetic: the base alone is FFN 0 with
// weight 1 under either router, and top-k depends on (k, set) only.
int Count(math::ExpertMask set) {
  return std::popcount(static_cast<uint64_t>(set)) +
         std::popcount(static_cast<uint64_t>(set >> 64));
}

using Key = std::tuple<int, int64_t, math::ExpertMask>;
Key KeyOf(const Row& row, const model::Router* router_of_row) {
  if (row.allowed == 1) return {0, 0, 1};
  if (router_of_row == nullptr) return {3, 0, row.allowed};
  const model::Router& router = *router_of_row;
  if (router.kind == model::Router::Kind::kAnchored) {
    return {1, 0, row.allowed};
  }
  const int64_t k =
      std::min<int64_t>(router.k, Count(row.allowed));
  return {2, k, row.allowed};
}

// A short name of each expert: its domain, or its id where that is not one.
std::vector<std::string> Labels(const v1::CompositionLock& lock) {
  std::map<std::string, int> uses;
  for (const v1::LockedExpert& e : lock.experts()) ++uses[e.domain()];
  std::vector<std::string> labels;
  for (const v1::LockedExpert& e : lock.experts()) {
    const bool clear = !e.domain().empty() && uses[e.domain()] == 1;
    labels.push_back(clear ? e.domain() : e.id());
  }
  return labels;
}

double GeometricMean(const std::vector<double>& values,
                     const std::vector<bool>* of) {
  double sum = 0;
  int n = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (of != nullptr && !(*of)[i]) continue;
    sum += std::log(values[i]);
    ++n;
  }
  return std::exp(sum / n);
}

}  // namespace

absl::StatusOr<Matrix> MeasureMatrix(const assemble::Composition& composition,
                                     const std::vector<Domain>& domains,
                                     const MatrixOptions& options) {
  const v1::CompositionLock& lock = composition.lock;
  if (domains.empty()) {
    return proto::Invalid("matrix", "no domain", "at least one",
                          "give --domain NAME=FILE.jsonl");
  }
  const int32_t separator = composition.tokenizer().IdOf("<|endoftext|>");
  if (separator < 0) {
    return proto::Invalid("matrix", "a tokenizer without <|endoftext|>",
                          "one with it, to join documents");
  }
  Matrix matrix;
  matrix.composition = lock.name();
  matrix.router = lock.router().kind();
  matrix.window = options.window;

  // Tokenized once; the documents are of no further use.
  std::vector<learn::TokenWindows> windows;
  std::set<std::string> owned, names;
  for (const v1::LockedExpert& e : lock.experts()) owned.insert(e.domain());
  for (const Domain& domain : domains) {
    if (!names.insert(domain.name).second) {
      return proto::Invalid("matrix",
                            absl::StrCat("domain ", domain.name, " twice"),
                            "each once");
    }
    windows.emplace_back(composition.tokenizer(), domain.documents, separator,
                         options.window);
    if (windows.back().count() == 0) {
      return proto::Invalid(
          absl::StrCat("domain ", domain.name),
          absl::StrCat(windows.back().tokens(), " tokens"),
          absl::StrCat("at least one window of ", options.window),
          "give more text or a smaller --window");
    }
    matrix.domains.push_back(domain.name);
    matrix.is_owners.push_back(owned.count(domain.name) > 0);
  }

  // Views only: the pair router shares the composition's weights. Without a
  // router the rows are weights made for each set.
  const bool routed = lock.has_router();
  model::Router pair;
  pair.k = 2;
  pair.renormalise = lock.router().renormalise();
  const model::Decoder& whole = *composition.decoder;
  MOTET_ASSIGN_OR_RETURN(
      const model::Decoder pairs,
      model::Decoder::Create(whole.config(), whole.weights(), pair));

  const std::vector<std::string> labels = Labels(lock);
  const math::ExpertMask all = composition.All();
  std::vector<Row> rows = {{"base", false, 1}};
  for (size_t i = 0; i < labels.size(); ++i) {
    rows.push_back({absl::StrCat(routed ? "base + " : "only ", labels[i]),
                    routed,
                    math::ExpertMask{1} | math::ExpertMask{2} << i});
  }
  rows.push_back({"composition", false, all});
  for (size_t i = 0; i < labels.size(); ++i) {
    rows.push_back({absl::StrCat("without ", labels[i]), false,
                    all & ~(math::ExpertMask{2} << i)});
  }
  const auto key_of = [&](const Row& row) {
    return KeyOf(row, !routed    ? nullptr
                      : row.pair ? &pairs.router()
                                 : &whole.router());
  };

  std::set<Key> distinct;
  for (const Row& row : rows) distinct.insert(key_of(row));
  int64_t total = 0, done = 0;
  for (const auto& w : windows) {
    total += CappedWindows(w, options.max_tokens) * options.window;
  }
  total *= static_cast<int64_t>(distinct.size());

  std::map<std::pair<Key, size_t>, double> known;
  matrix.scored_tokens.resize(domains.size());
  for (const Row& row : rows) {
    std::vector<double> values;
    std::shared_ptr<const model::Decoder> decoder;
    if (!row.pair && known.count({key_of(row), 0}) == 0) {
      MOTET_ASSIGN_OR_RETURN(decoder, composition.DecoderFor(row.allowed));
    }
    for (size_t d = 0; d < windows.size(); ++d) {
      const auto key = std::make_pair(key_of(row), d);
      if (known.count(key) == 0) {
        ScoreOptions score;
        score.allowed = row.allowed;
        score.max_tokens = options.max_tokens;
        score.product = options.product;
        score.progress = [&](int64_t tokens) {
          done += tokens;
          if (!options.progress) return;
          options.progress(static_cast<double>(done) / total,
                           absl::StrCat(row.name, " on ", matrix.domains[d]));
        };
        MOTET_ASSIGN_OR_RETURN(
            const Score result,
            ScoreWindows(row.pair ? pairs : *decoder, windows[d], score));
        known[key] = result.Perplexity();
        matrix.scored_tokens[d] = result.tokens;
      }
      values.push_back(known[key]);
    }
    matrix.models.push_back(row.name);
    matrix.all.push_back(GeometricMean(values, nullptr));
    if (std::count(matrix.is_owners.begin(), matrix.is_owners.end(), true)) {
      matrix.owners.push_back(GeometricMean(values, &matrix.is_owners));
    }
    matrix.values.push_back(std::move(values));
  }
  return matrix;
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
  return json.dump(2, ' ', false,
                   nlohmann::ordered_json::error_handler_t::replace) +
         "\n";
}

}  // namespace motet::measure
