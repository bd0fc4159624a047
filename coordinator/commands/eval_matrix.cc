// SPDX-License-Identifier: Apache-2.0
// motet eval matrix NAME --domain code=FILE.jsonl ...: models down, domains
// across, perplexity in the cells; as a table, a picture, and JSON.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/learn/corpus.h"
#include "compose/measure/matrix.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/compose_parts.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string name;
  std::vector<std::string> domains;  // NAME=FILE
  int64_t window = 256;
  int64_t max_tokens = 0;
  std::string router;
  std::string svg, json;
  math::Product product = math::Product::kExact;
};

absl::StatusOr<std::vector<measure::Domain>> ReadDomains(
    const std::vector<std::string>& given) {
  std::vector<measure::Domain> domains;
  for (const std::string& text : given) {
    const size_t equal = text.find('=');
    if (equal == 0 || equal == std::string::npos ||
        equal + 1 == text.size()) {
      return proto::Invalid("--domain", absl::StrCat("\"", text, "\""),
                            "NAME=FILE.jsonl");
    }
    measure::Domain domain;
    domain.name = text.substr(0, equal);
    MOTET_ASSIGN_OR_RETURN(domain.documents,
                           learn::ReadJsonl(text.substr(equal + 1)));
    domains.push_back(std::move(domain));
  }
  return domains;
}

std::string MatrixTable(const measure::Matrix& m) {
  std::vector<std::string> head = {"perplexity"};
  std::vector<std::vector<double>> columns;
  for (size_t d = 0; d < m.domains.size(); ++d) {
    head.push_back(m.domains[d]);
    columns.emplace_back();
    for (const auto& row : m.values) columns.back().push_back(row[d]);
  }
  if (!m.owners.empty()) {
    head.push_back("owners");
    columns.push_back(m.owners);
  }
  head.push_back("all");
  columns.push_back(m.all);
  std::vector<std::vector<Cell>> rows;
  for (size_t r = 0; r < m.models.size(); ++r) {
    rows.push_back({{m.models[r]}});
    for (const auto& column : columns) {
      const double best = *std::min_element(column.begin(), column.end());
      rows.back().push_back(
          {absl::StrFormat("%.2f", column[r]), column[r] == best});
    }
  }
  return AlignedTable(head, rows);
}

absl::Status Run(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const auto domains, ReadDomains(options.domains));
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(const v1::CompositionLock lock,
                         ReadLock(session.federation, options.name));
  assemble::LoadOptions load;
  load.router = options.router;
  MOTET_ASSIGN_OR_RETURN(const auto composition,
                         LoadNamed(session, lock, load));
  ProgressLine progress("matrix");
  measure::MatrixOptions measure;
  measure.window = options.window;
  measure.max_tokens = options.max_tokens;
  measure.product = options.product;
  measure.progress = [&](double fraction, const std::string& detail) {
    progress.Update(fraction, detail);
  };
  MOTET_ASSIGN_OR_RETURN(
      const measure::Matrix matrix,
      measure::MeasureMatrix(*composition, domains, measure));
  progress.Finish(absl::StrCat(matrix.models.size(), " models on ",
                               matrix.domains.size(), " domains"));
  const std::string json = measure::MatrixJson(matrix);
  if (!options.svg.empty()) {
    MOTET_RETURN_IF_ERROR(
        proto::WriteFileAtomic(options.svg, measure::MatrixSvg(matrix)));
  }
  if (!options.json.empty()) {
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(options.json, json));
  }
  if (context.json) {
    absl::PrintF("%s", json);
    return absl::OkStatus();
  }
  const std::string how = composition->lock.has_router()
                              ? absl::StrCat("router ", matrix.router)
                              : MethodText(composition->lock);
  absl::PrintF("%s\n%s of a column, %s, windows of %d tokens, each "
               "scored from its second.\nowners, all: geometric means over "
               "the owners' domains and over all.\n",
               MatrixTable(matrix), "*: best",
               how, matrix.window);
  return absl::OkStatus();
}

}  // namespace

void AddEvalMatrix(CLI::App& noun, Context& context) {
  CLI::App* command = noun.add_subcommand(
      "matrix", "Perplexity of the base, of every expert beside it, of the "
                "composition, and of it without each expert");
  auto options = std::make_shared<Options>();
  command->add_option("name", options->name, "The composition's name")
      ->required();
  command
      ->add_option("--domain", options->domains,
                   "NAME=FILE.jsonl, held-out text of a domain; once for each")
      ->allow_extra_args(false)
      ->required();
  command->add_option("--window", options->window, "Tokens that a model sees")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20))
      ->capture_default_str();
  command
      ->add_option("--max-tokens", options->max_tokens,
                   "At most this many tokens a domain; 0 = all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--router", options->router,
                   "Another router than the lock's, for comparison")
      ->check(CLI::IsMember({"anchored", "topk"}));
  command->add_option("--svg", options->svg, "Also as a picture, to this file");
  command->add_option("--json", options->json, "Also as JSON, to this file");
  AddArithmeticOption(*command, options->product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
