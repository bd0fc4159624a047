// SPDX-License-Identifier: Apache-2.0
// motet search INDEX --query TEXT: the documents of an index that answer a
// query best (docs/retrieval.md).
#include "compose/retrieve/search.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/query_encoder.h"
#include "coordinator/commands/retrieval_parts.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

struct Options {
  QueryOptions queries_by;
  std::string index, encoder, composition, file, mode = "dense";
  std::vector<std::string> queries, filters;
  int64_t k = 10;
  math::Product product = math::Product::kExact;
};

absl::StatusOr<retrieve::SearchRequest> RequestOf(const Options& options) {
  retrieve::SearchRequest request;
  MOTET_ASSIGN_OR_RETURN(request.mode, retrieve::ParseSearchMode(options.mode));
  request.k = options.k;
  request.queries = options.queries;
  if (!options.file.empty()) {
    MOTET_ASSIGN_OR_RETURN(
        std::string text,
        proto::ReadFile(options.file, proto::kMaxDocumentBytes));
    request.queries.push_back(std::move(text));
  }
  for (const std::string& filter : options.filters) {
    const size_t equals = filter.find('=');
    if (equals == std::string::npos || equals == 0) {
      return proto::Invalid("--filter", absl::StrCat("\"", filter, "\""),
                            "field=value");
    }
    request.filters.emplace_back(filter.substr(0, equals),
                                 filter.substr(equals + 1));
  }
  return request;
}

// The first of a text, on one line.
std::string Beginning(const std::string& text) {
  constexpr size_t kShown = 100;
  std::string line = text.substr(0, kShown);
  // Not within a character.
  while (text.size() > kShown && !line.empty() &&
         (static_cast<unsigned char>(text[line.size()]) & 0xC0) == 0x80) {
    line.pop_back();
  }
  std::replace_if(
      line.begin(), line.end(),
      [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 127; },
      ' ');
  return text.size() > line.size() ? line + "…" : line;
}

absl::Status Print(const retrieve::Index& index,
                   const retrieve::SearchResult& result, bool composed,
                   const Context& context) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (size_t q = 0; q < result.rankings.size(); ++q) {
    nlohmann::ordered_json hits = nlohmann::ordered_json::array();
    if (!context.json && (result.rankings.size() > 1 || composed)) {
      absl::PrintF(
          "query %d%s\n", q + 1,
          composed ? absl::StrCat(", by ", ExpertText(result.experts[q])) : "");
    }
    for (const retrieve::Hit& hit : result.rankings[q]) {
      MOTET_ASSIGN_OR_RETURN(const retrieve::Document document,
                             index.Get(hit.row));
      if (!context.json) {
        absl::PrintF("%8.4f  %s  %s\n", hit.score, document.id,
                     Beginning(retrieve::TextOf(document)));
        continue;
      }
      hits.push_back({{"id", document.id},
                      {"score", hit.score},
                      {"title", document.title},
                      {"text", document.text},
                      {"metadata", document.metadata}});
    }
    all.push_back({{"hits", hits}});
    if (composed) all.back()["expert"] = result.experts[q];  // "": the base
  }
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::ordered_json{
                             {"results", all}, {"cut_queries", result.cut}}));
  }
  return absl::OkStatus();
}

absl::Status Run(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const retrieve::SearchRequest request,
                         RequestOf(options));
  MOTET_ASSIGN_OR_RETURN(const auto index,
                         retrieve::Index::Open(options.index));
  if (!options.composition.empty() && !options.encoder.empty()) {
    return proto::Invalid("--encoder", "one beside --composition",
                          "one or the other", "leave one out");
  }
  std::optional<OpenedQueries> opened;
  if (request.mode != retrieve::SearchMode::kBm25) {
    QueryOptions by = options.queries_by;
    by.composition = !options.composition.empty();
    by.served.model = by.composition            ? options.composition
                      : options.encoder.empty() ? index->header().encoder_folder
                                                : options.encoder;
    MOTET_ASSIGN_OR_RETURN(opened,
                           OpenQueries(by, options.product, "search", context));
  }
  MOTET_ASSIGN_OR_RETURN(
      const retrieve::SearchResult result,
      retrieve::Search(*index, opened ? opened->encoder.get() : nullptr,
                       request));
  if (result.cut > 0) {
    absl::FPrintF(stderr, "cut at %d tokens: %d queries\n",
                  opened->base().max_tokens(), result.cut);
  }
  return Print(*index, result, opened && opened->composed(), context);
}

}  // namespace

void AddSearch(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "search", "Find the documents of an index that answer a query best");
  command->add_option("INDEX", options->index, "The index's folder")
      ->required();
  command->add_option("--query", options->queries, "The query; once for each")
      ->allow_extra_args(false);
  command->add_option("--query-file", options->file,
                      "A file that is a query as a whole");
  command->add_option("-k,--top", options->k, "How many documents")
      ->capture_default_str();
  command
      ->add_option("--mode", options->mode,
                   "Rank by vectors, by BM25, or by both fused")
      ->check(CLI::IsMember({"dense", "bm25", "fusion"}))
      ->capture_default_str();
  command
      ->add_option("--filter", options->filters,
                   "field=value of a document's metadata; once for each, all "
                   "must hold")
      ->allow_extra_args(false);
  command->add_option("--encoder", options->encoder,
                      "Where the index's encoder lies now");
  command->add_option("--composition", options->composition,
                      "A composition of the federation whose experts answer: "
                      "each query goes to one of them");
  AddQueryOptions(*command, options->queries_by);
  command->add_option("--adapter", options->queries_by.adapter,
                      "Folder of a LoRA adapter, in PEFT layout, for the "
                      "query");
  AddArithmeticOption(*command, options->product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
