// SPDX-License-Identifier: Apache-2.0
// motet eval routers ENCODER --expert law=FOLDER... --set law=DIR...: every
// way of choosing an adapter for a query beside one another, and what is left
// when each set's own expert is withdrawn (docs/retrieval.md).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/measure/router_sets.h"
#include "compose/package/peft.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/retrieval_parts.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string encoder, csv, json, scores;
  std::vector<std::string> experts, adapters, sets;  // NAME=FOLDER
  measure::RouterSetOptions measured;
  measure::RouterTableOptions table;
  bool cosine = false;
  math::Product product = math::Product::kExact;
};

struct Named {
  std::string name, folder;
};
absl::StatusOr<std::vector<Named>> Parse(const char* option,
                                         const std::vector<std::string>& from) {
  std::vector<Named> named;
  for (const std::string& text : from) {
    const size_t equal = text.find('=');
    if (equal == 0 || equal == std::string::npos || equal + 1 == text.size()) {
      return proto::Invalid(option, absl::StrCat("\"", text, "\""),
                            "NAME=FOLDER");
    }
    named.push_back({text.substr(0, equal), text.substr(equal + 1)});
    const Named& last = named.back();
    if (std::any_of(named.begin(), named.end() - 1,
                    [&](const Named& n) { return n.name == last.name; })) {
      return proto::Invalid(option, absl::StrCat("\"", last.name, "\" twice"),
                            "each name once");
    }
  }
  return named;
}

std::string Table(const measure::RouterTable& table, bool withdrawn) {
  std::vector<std::string> head = {withdrawn ? "own expert withdrawn"
                                             : "nDCG@10"};
  head.insert(head.end(), table.sets.begin(), table.sets.end());
  head.push_back("mean");
  std::vector<std::vector<double>> columns(head.size() - 1);
  for (const measure::RouterRow& row : table.rows) {
    const auto& values = withdrawn ? row.without : row.values;
    for (size_t s = 0; s < values.size(); ++s) columns[s].push_back(values[s]);
    // A mean over fewer sets than the others' would not compare.
    const bool whole = std::none_of(values.begin(), values.end(),
                                    [](double v) { return std::isnan(v); });
    columns.back().push_back(whole ? measure::RowMean(values) : NAN);
  }
  std::vector<double> best;
  for (const auto& column : columns) {
    double most = -1;
    for (size_t r = 0; r < column.size(); ++r) {
      if (table.rows[r].kind != "oracle" && column[r] > most) most = column[r];
    }
    best.push_back(most);
  }
  std::vector<std::vector<Cell>> rows;
  for (size_t r = 0; r < table.rows.size(); ++r) {
    rows.push_back({{table.rows[r].name}});
    for (size_t c = 0; c < columns.size(); ++c) {
      const double value = columns[c][r];
      rows.back().push_back(
          {std::isnan(value) ? "-" : absl::StrFormat("%.4f", value),
           value == best[c] && table.rows[r].kind != "oracle"});
    }
  }
  return AlignedTable(head, rows);
}

absl::Status Run(Options options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const auto experts,
                         Parse("--expert", options.experts));
  MOTET_ASSIGN_OR_RETURN(const auto adapters,
                         Parse("--adapter", options.adapters));
  MOTET_ASSIGN_OR_RETURN(const auto sets, Parse("--set", options.sets));
  MOTET_ASSIGN_OR_RETURN(
      const auto base,
      retrieve::TextEncoder::Load(options.encoder, options.product));
  std::vector<std::unique_ptr<package::LoadedLora>> loaded;
  std::vector<const model::Lora*> loras;
  for (const auto* list : {&experts, &adapters}) {
    for (const Named& one : *list) {
      MOTET_ASSIGN_OR_RETURN(auto lora,
                             package::LoadLora(one.folder, base->config()));
      loras.push_back(&lora->lora);
      loaded.push_back(std::move(lora));
    }
  }
  std::vector<std::string> names, further;
  for (const Named& e : experts) names.push_back(e.name);
  for (const Named& a : adapters) further.push_back(a.name);
  std::vector<measure::SetSource> sources;
  for (const Named& set : sets) {
    const auto own = std::find(names.begin(), names.end(), set.name);
    sources.push_back({set.name, set.folder,
                       own == names.end()
                           ? -1
                           : static_cast<int>(own - names.begin())});
  }
  if (options.cosine) options.table.similarity = retrieve::Similarity::kCosine;
  options.table.seed = options.measured.seed;
  options.table.pilots.seed = options.measured.seed;
  ProgressLine progress("routers");
  options.measured.progress = [&](double fraction, const std::string& detail) {
    progress.Update(fraction, detail);
  };
  MOTET_ASSIGN_OR_RETURN(
      const auto measured,
      measure::MeasureSets(*base, loras, sources, options.measured));
  progress.Finish(absl::StrCat(measured.size(), " sets, ", loras.size(),
                               " adapters"));
  const measure::RouterTable table = measure::MakeRouterTable(
      measured, names, further, base->width(), options.table);
  if (!options.csv.empty()) {
    MOTET_RETURN_IF_ERROR(
        proto::WriteFileAtomic(options.csv, measure::RouterTableCsv(table)));
  }
  if (!options.scores.empty()) {
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(
        options.scores, measure::RouterScoresJsonl(measured)));
  }
  const std::string json = measure::RouterTableJson(table);
  if (!options.json.empty()) {
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(options.json, json));
  }
  if (context.json) {
    absl::PrintF("%s", json);
    return absl::OkStatus();
  }
  absl::PrintF("%s", Table(table, false));
  if (!experts.empty()) absl::PrintF("\n%s", Table(table, true));
  return absl::OkStatus();
}

}  // namespace

void AddEvalRouters(CLI::App& noun, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = noun.add_subcommand(
      "routers",
      "Every way of choosing an adapter for a query, on sets in BEIR layout");
  command->add_option("ENCODER", options->encoder, "Folder of a BERT encoder")
      ->required();
  command
      ->add_option("--expert", options->experts,
                   "NAME=FOLDER, an owner's adapter; once for each, in order")
      ->allow_extra_args(false);
  command
      ->add_option("--adapter", options->adapters,
                   "NAME=FOLDER, a row by itself: one adapter on all data")
      ->allow_extra_args(false);
  command
      ->add_option("--set", options->sets,
                   "NAME=DIR in BEIR layout; the set of the expert of that "
                   "name has qrels/train.tsv, its owner's queries")
      ->allow_extra_args(false)
      ->required();
  command
      ->add_option("--max-train", options->measured.max_train,
                   "At most so many of each owner's queries; 0 = all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--min-queries", options->table.pilots.min_queries,
                   "Smaller groups give no pilot")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--samples", options->table.samples,
                   "Queries of each owner that the dataset router compares "
                   "with")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--clusters", options->table.clusters,
                   "Pilots of a group in the rows with k-means")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
  command->add_flag("--cosine", options->cosine,
                    "Pilots by cosine in place of the inner product");
  command
      ->add_option("--seed", options->measured.seed,
                   "Of what is drawn: queries, samples, clusters")
      ->capture_default_str();
  command->add_option("--cache", options->measured.cache,
                      "Folder that keeps document vectors");
  command->add_option("--csv", options->csv, "Write the table to this file");
  command->add_option("--json", options->json,
                      "Write it with the shares of each expert to this file");
  command->add_option("--scores", options->scores,
                      "Write every query's nDCG@10 by the base, each expert "
                      "and each further adapter to this JSONL file");
  AddArithmeticOption(*command, options->product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
