// SPDX-License-Identifier: Apache-2.0
// motet eval matrix NAME... --domain code=FILE.jsonl ...: models down, domains
// across, perplexity or bits per byte in the cells; as a table, a picture,
// JSON and CSV.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/measure/matrix.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/compose_parts.h"
#include "coordinator/commands/eval_domains.h"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::vector<std::string> names;
  DomainOptions domains;
  int64_t window = 256;
  int64_t max_tokens = 0;
  std::string router, unit;
  bool relative = false;
  std::vector<std::string> rows;  // kinds; empty = all
  std::string svg, json, csv;
  math::Product product = math::Product::kExact;
};

std::string MatrixTable(const measure::Matrix& m) {
  std::vector<std::string> head = {m.measure};
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
  const bool fine = m.measure != "perplexity";
  std::vector<std::vector<Cell>> rows;
  for (size_t r = 0; r < m.models.size(); ++r) {
    rows.push_back({{m.models[r]}});
    for (const auto& column : columns) {
      const double best = *std::min_element(column.begin(), column.end());
      rows.back().push_back(
          {fine ? absl::StrFormat("%.3f", column[r])
                : absl::StrFormat("%.2f", column[r]),
           column[r] == best});
    }
  }
  return AlignedTable(head, rows);
}

// A measured model can be a directory, an expert or a composition.
bool IsDirectory(const std::string& name) {
  return proto::Exists(name + "/config.json");
}

struct Subjects {
  std::vector<measure::MatrixRow> rows;
  std::vector<std::string> owners;   // domains that are an expert's
  std::vector<std::string> routers;  // of the compositions, each kind once
  std::vector<std::string> merges;   // of those without, in words
};

void AddOnce(const std::string& text, std::vector<std::string>& to) {
  if (std::count(to.begin(), to.end(), text) == 0) to.push_back(text);
}

void AddOwners(const v1::CompositionLock& lock, Subjects& subjects) {
  for (const v1::LockedExpert& e : lock.experts()) {
    subjects.owners.push_back(e.domain());
  }
}

absl::Status AddDirectory(const std::string& folder, Subjects& subjects) {
  MOTET_ASSIGN_OR_RETURN(std::shared_ptr<const assemble::ServedModel> model,
                         assemble::LoadDirectory(folder));
  MOTET_ASSIGN_OR_RETURN(const auto digest,
                         proto::Sha256File(folder + "/tokenizer.json"));
  for (auto& row : measure::DirectoryRows(
           std::move(model), absl::StrCat("directory ", folder),
           proto::Hex(digest))) {
    subjects.rows.push_back(std::move(row));
  }
  return absl::OkStatus();
}

// Experts that need be in no composition: base + each.
absl::Status AddExperts(const ComposeSession& session,
                        const std::vector<std::string>& ids,
                        Subjects& subjects) {
  assemble::Recipe recipe;
  recipe.name = "experts";
  recipe.experts = ids;
  recipe.router.kind = "topk";
  MOTET_ASSIGN_OR_RETURN(RecipeParts parts,
                         GatherParts(session, std::move(recipe)));
  for (const assemble::Part& part : parts.experts) {
    // A whole model is a row by itself.
    if (part.manifest.kind() != "ffn") parts.recipe.method = "ensemble";
  }
  const assemble::Plan plan =
      assemble::MakePlan(parts.recipe, parts.base, parts.experts);
  MOTET_RETURN_IF_ERROR(PlanStatus(plan, absl::StrJoin(ids, ", ")));
  MOTET_ASSIGN_OR_RETURN(
      std::shared_ptr<const assemble::Composition> composition,
      assemble::LoadComposition(plan.lock, FolderOf(session)));
  AddOwners(plan.lock, subjects);
  MOTET_ASSIGN_OR_RETURN(auto rows, measure::PairRows(std::move(composition)));
  for (auto& row : rows) subjects.rows.push_back(std::move(row));
  return absl::OkStatus();
}

absl::Status AddComposition(const ComposeSession& session,
                            const std::string& name, const Options& options,
                            Subjects& subjects) {
  MOTET_ASSIGN_OR_RETURN(v1::CompositionLock lock,
                         ReadLock(session.federation, name));
  assemble::LoadOptions load;
  load.router = options.router;
  MOTET_ASSIGN_OR_RETURN(
      std::shared_ptr<const assemble::Composition> composition,
      LoadNamed(session, lock, load));
  const v1::CompositionLock& used = composition->lock;
  if (used.has_router()) {
    AddOnce(used.router().kind(), subjects.routers);
  } else {
    AddOnce(MethodText(used), subjects.merges);
  }
  AddOwners(lock, subjects);
  MOTET_ASSIGN_OR_RETURN(
      auto rows, measure::CompositionRows(std::move(composition),
                                          options.names.size() > 1));
  for (auto& row : rows) subjects.rows.push_back(std::move(row));
  return absl::OkStatus();
}

absl::StatusOr<Subjects> OpenSubjects(const Options& options,
                                      const Context& context) {
  Subjects subjects;
  std::vector<std::string> experts;
  std::optional<ComposeSession> session;
  for (const std::string& name : options.names) {
    if (IsDirectory(name)) continue;
    if (absl::StrContains(name, '/')) experts.push_back(name);
    if (session.has_value()) continue;
    MOTET_ASSIGN_OR_RETURN(session, OpenComposeSession(context));
  }
  bool done = false;  // the experts, all at once
  for (const std::string& name : options.names) {
    if (IsDirectory(name)) {
      MOTET_RETURN_IF_ERROR(AddDirectory(name, subjects));
    } else if (!absl::StrContains(name, '/')) {
      MOTET_RETURN_IF_ERROR(AddComposition(*session, name, options, subjects));
    } else if (!std::exchange(done, true)) {
      MOTET_RETURN_IF_ERROR(AddExperts(*session, experts, subjects));
    }
  }
  return subjects;
}

// Perplexity where it compares, unless told otherwise.
absl::StatusOr<measure::View> ViewOf(
    const Options& options, const std::vector<measure::MatrixRow>& rows) {
  std::set<std::string> tokenizers;
  for (const auto& row : rows) tokenizers.insert(row.tokenizer);
  measure::View view;
  view.relative = options.relative;
  view.bits_per_byte = options.unit == "bits-per-byte" ||
                       (options.unit.empty() && tokenizers.size() > 1);
  if (tokenizers.size() <= 1) return view;
  if (!view.bits_per_byte) {
    return proto::Invalid(
        "--unit",
        absl::StrCat("perplexity over ", tokenizers.size(), " tokenizers"),
        "bits-per-byte, which compares across them");
  }
  if (options.max_tokens > 0) {
    return proto::Invalid(
        "--max-tokens",
        absl::StrCat("a cap in tokens of ", tokenizers.size(), " tokenizers"),
        "--max-bytes, so that every model reads the same text");
  }
  return view;
}

// The names, without the way to a directory.
std::string Title(const std::vector<std::string>& names) {
  std::vector<std::string> parts;
  for (const std::string& name : names) {
    const bool path = IsDirectory(name) && name.back() != '/';
    parts.push_back(path ? name.substr(name.rfind('/') + 1) : name);
  }
  return absl::StrJoin(parts, ", ");
}

absl::Status WriteOutputs(const Options& options,
                          const measure::Matrix& matrix,
                          const measure::Matrix& seen) {
  const std::pair<std::string, std::string> files[] = {
      {options.svg, options.svg.empty() ? "" : measure::MatrixSvg(seen)},
      {options.json, measure::MatrixJson(matrix)},
      {options.csv, measure::MatrixCsv(matrix)}};
  for (const auto& [path, text] : files) {
    if (path.empty()) continue;
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(path, text));
  }
  return absl::OkStatus();
}

absl::Status Run(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const auto domains, ReadDomains(options.domains));
  MOTET_ASSIGN_OR_RETURN(Subjects subjects, OpenSubjects(options, context));
  if (!options.rows.empty()) {
    MOTET_RETURN_IF_ERROR(measure::KeepKinds(options.rows, subjects.rows));
  }
  MOTET_ASSIGN_OR_RETURN(const measure::View view,
                         ViewOf(options, subjects.rows));
  ProgressLine progress("matrix");
  measure::MatrixOptions measure;
  measure.window = options.window;
  measure.max_tokens = options.max_tokens;
  measure.product = options.product;
  measure.progress = [&](double fraction, const std::string& detail) {
    progress.Update(fraction, detail);
  };
  MOTET_ASSIGN_OR_RETURN(
      measure::Matrix matrix,
      measure::MeasureRows(std::move(subjects.rows), subjects.owners, domains,
                           measure));
  matrix.composition = Title(options.names);
  if (!subjects.routers.empty()) {
    matrix.router = absl::StrJoin(subjects.routers, ", ");
  } else if (subjects.merges.empty()) {
    matrix.router = "of each model";
  }
  progress.Finish(absl::StrCat(matrix.models.size(), " models on ",
                               matrix.domains.size(), " domains"));
  const measure::Matrix seen = measure::Viewed(matrix, view);
  MOTET_RETURN_IF_ERROR(WriteOutputs(options, matrix, seen));
  if (context.json) {
    absl::PrintF("%s", measure::MatrixJson(matrix));
    return absl::OkStatus();
  }
  std::vector<std::string> how = subjects.merges;
  if (!matrix.router.empty()) {
    how.insert(how.begin(), absl::StrCat("router ", matrix.router));
  }
  absl::PrintF("%s\n%s of a column, %s, windows of %d tokens, each "
               "scored from its second.\nowners, all: geometric means over "
               "the owners' domains and over all.\n",
               MatrixTable(seen), "*: best", absl::StrJoin(how, "; "),
               matrix.window);
  if (view.relative) {
    absl::PrintF("relative: divided by the row %s.\n", seen.models[0]);
  }
  return absl::OkStatus();
}

}  // namespace

void AddEvalMatrix(CLI::App& noun, Context& context) {
  CLI::App* command = noun.add_subcommand(
      "matrix", "Perplexity or bits per byte of bases, of experts beside "
                "them, of compositions, and of these without each expert");
  auto options = std::make_shared<Options>();
  command
      ->add_option("names", options->names,
                   "Compositions, experts (owner/name) and model directories, "
                   "in any number")
      ->required();
  AddDomainOptions(*command, options->domains);
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
  command
      ->add_option("--unit", options->unit,
                   "perplexity (where all have one tokenizer) or "
                   "bits-per-byte, for the table and the picture")
      ->check(CLI::IsMember({"perplexity", "bits-per-byte"}));
  command
      ->add_option("--rows", options->rows,
                   "Only rows of these kinds, as base,composition,without")
      ->delimiter(',')
      ->check(CLI::IsMember(measure::kRowKinds));
  command->add_flag("--relative", options->relative,
                    "Divide each column by the first row, the base");
  command->add_option("--csv", options->csv,
                      "Also as CSV, a line a cell, to this file");
  command->add_option("--svg", options->svg, "Also as a picture, to this file");
  command->add_option("--json", options->json, "Also as JSON, to this file");
  AddArithmeticOption(*command, options->product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
