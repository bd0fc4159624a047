// SPDX-License-Identifier: Apache-2.0
// motet eval routing MODEL --domain code=FILE.jsonl ...: which experts answer
// a domain, layer by layer, and how local their choice is. For whoever holds
// the text: aggregates of a whole domain, and none of a small one.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/measure/routing.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/compose_parts.h"
#include "coordinator/commands/eval_domains.h"
#include "coordinator/commands/served.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

struct Options {
  ServedOptions served;
  DomainOptions domains;
  measure::RoutingOptions measure;
  std::string svg, json, csv;
};

std::vector<std::string> LabelsOf(const assemble::ServedModel& model) {
  std::vector<std::string> labels;
  for (const assemble::ServedExpert& expert : model.experts) {
    const bool base = expert.always && model.config.experts > 0 &&
                      labels.empty() && !model.lock_sha256.empty();
    labels.push_back(base                    ? "base"
                     : expert.domain.empty() ? expert.id
                                             : expert.domain);
  }
  return labels;
}

std::string Plain(double value) {
  return std::isnan(value) ? "-" : absl::StrFormat("%.2f", value);
}

std::string RoutingTable(const measure::RoutingReport& report,
                         const measure::DomainRouting& domain) {
  std::vector<std::string> head = {domain.name};
  for (const std::string& expert : report.experts) head.push_back(expert);
  for (const char* name : {"bits", "SRP", "SCH"}) head.emplace_back(name);
  std::vector<std::vector<Cell>> rows;
  for (size_t l = 0; l < domain.layers.size(); ++l) {
    const measure::LayerRouting& layer = domain.layers[l];
    rows.push_back({{absl::StrCat("layer ", l)}});
    for (const double share : layer.share) {
      rows.back().push_back({absl::StrFormat("%.1f", 100 * share)});
    }
    for (const double value : {layer.entropy, layer.srp, layer.sch}) {
      rows.back().push_back({Plain(value)});
    }
  }
  return AlignedTable(head, rows);
}

absl::Status Run(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const auto domains, ReadDomains(options.domains));
  MOTET_ASSIGN_OR_RETURN(const Served served,
                         OpenServed(options.served, context));
  MOTET_ASSIGN_OR_RETURN(
      const Admission admission,
      AdmitServed(served, options.served, "eval routing"));
  ProgressLine progress("routing", ProgressLine::kTerminal);
  measure::RoutingOptions measure = options.measure;
  measure.allowed = admission.mask();
  measure.progress = [&](double fraction, const std::string& detail) {
    progress.Update(fraction, detail);
  };
  MOTET_ASSIGN_OR_RETURN(
      const measure::RoutingReport report,
      measure::MeasureRouting(*served.model, LabelsOf(*served.model), domains,
                              measure));
  progress.Finish(absl::StrCat(report.domains.size(), " domains"));
  const std::pair<std::string, std::string> files[] = {
      {options.svg, measure::RoutingSvg(report)},
      {options.json, measure::RoutingJson(report)},
      {options.csv, measure::RoutingCsv(report)}};
  for (const auto& [path, text] : files) {
    if (path.empty()) continue;
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(path, text));
  }
  if (context.json) {
    absl::PrintF("%s", measure::RoutingJson(report));
    return absl::OkStatus();
  }
  for (const measure::DomainRouting& domain : report.domains) {
    absl::PrintF("%s\n", RoutingTable(report, domain));
  }
  absl::PrintF("%% of tokens that each expert answers, router %s. bits: "
               "entropy of the shares.\nSRP: best F1 of a fixed group of "
               "experts for %d tokens. SCH: hit rate of a cache of %d.\n",
               report.router, report.segment, report.cache_experts);
  return absl::OkStatus();
}

}  // namespace

void AddEvalRouting(CLI::App& noun, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = noun.add_subcommand(
      "routing", "Which experts answer a domain's text, by layer: shares, "
                 "entropy, and how long a choice lasts");
  AddServedOptions(*command, options->served);
  AddDomainOptions(*command, options->domains);
  measure::RoutingOptions& measure = options->measure;
  command->add_option("--window", measure.window, "Tokens that a model sees")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20))
      ->capture_default_str();
  command
      ->add_option("--segment", measure.segment,
                   "m of SRP and SCH: consecutive tokens")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
      ->capture_default_str();
  command
      ->add_option("--cache", measure.cache,
                   "rho of SCH: the cache holds rho times the experts of a "
                   "token")
      ->check(CLI::Range(0.01, 128.0))
      ->capture_default_str();
  command->add_option("--svg", options->svg, "Also as heat maps, to this file");
  command->add_option("--json", options->json, "Also as JSON, to this file");
  command->add_option("--csv", options->csv,
                      "Also as CSV, a line a cell, to this file");
  AddExpertOptions(*command, options->served);
  AddArithmeticOption(*command, measure.product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
