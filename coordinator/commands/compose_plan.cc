// SPDX-License-Identifier: Apache-2.0
// motet compose plan RECIPE.toml: what a recipe comes to, and what that changes
// about the composition of its name, without doing it.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "coordinator/commands/compose_parts.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

absl::Status Plan(const std::string& recipe, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(const RecipeParts parts,
                         GatherParts(session, recipe));
  const assemble::Plan plan =
      assemble::MakePlan(parts.recipe, parts.base, parts.experts, parts.pilots);
  MOTET_ASSIGN_OR_RETURN(const auto diff, DiffOf(session, plan));
  if (context.json) {
    absl::PrintF("%s", PlanJson(plan, diff));
  } else {
    PrintPlan(plan, parts.experts);
    if (diff.has_value()) PrintDiff(*diff, plan.lock.name());
  }
  return PlanStatus(plan, recipe);
}

}  // namespace

void PrintPlan(const assemble::Plan& plan,
               const std::vector<assemble::Part>& experts) {
  const v1::CompositionLock& lock = plan.lock;
  absl::PrintF("composition  %s\n", lock.name());
  absl::PrintF("method       %s over base %s (%s)\n", lock.method(),
               lock.base().id(), lock.base().manifest_sha256().substr(0, 12));
  absl::PrintF("how          %s\n", MethodText(lock));
  absl::PrintF("exclusion    %s\n", lock.exclusion());
  absl::PrintF("parameters   %s, at most %s of them for a token\n",
               CountText(plan.parameters), CountText(plan.active_parameters));
  absl::PrintF("bytes        %s in packages, referenced; %s new\n\n",
               BytesText(plan.referenced_bytes), BytesText(plan.new_bytes));
  const bool adapters = assemble::TakesPilots(lock.method());
  std::vector<std::vector<Cell>> rows;
  for (const assemble::Part& part : experts) {
    const v1::ExpertManifest& m = part.manifest;
    rows.push_back(
        {{m.id()},
         {m.domain().domain()},
         {absl::StrCat(adapters ? m.adapter().rank() : m.model().ffn_width())},
         {m.licence().spdx().empty() ? "-" : m.licence().spdx()},
         {absl::StrCat(part.log_index)},
         {part.manifest_sha256.substr(0, 12)}});
  }
  absl::PrintF(
      "%s\n", AlignedTable({"expert", "domain", adapters ? "rank" : "FFN width",
                            "licence", "log entry", "digest"},
                           rows));
  for (const std::string& note : plan.notes) absl::PrintF("- %s\n", note);
}

std::string PlanJson(const assemble::Plan& plan,
                     const std::optional<assemble::PlanDiff>& diff) {
  nlohmann::ordered_json json;
  json["lock"] =
      nlohmann::ordered_json::parse(assemble::WriteLock(plan.lock));
  json["problems"] = plan.problems;
  json["notes"] = plan.notes;
  json["parameters"] = plan.parameters;
  json["active_parameters"] = plan.active_parameters;
  json["new_bytes"] = plan.new_bytes;
  json["referenced_bytes"] = plan.referenced_bytes;
  json["changes"] = nullptr;
  if (diff.has_value()) json["changes"] = DiffJson(*diff);
  return JsonText(json, 2) + "\n";
}

absl::Status PlanStatus(const assemble::Plan& plan,
                        const std::string& recipe) {
  if (plan.problems.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("[", recipe, "] got ", plan.problems.size(),
                   " problems, want none; nothing was composed:\n  ",
                   absl::StrJoin(plan.problems, "\n  ")));
}

void AddComposePlan(CLI::App& noun, Context& context) {
  CLI::App* command = noun.add_subcommand(
      "plan", "Show what a recipe comes to: experts, size, guarantee, licence "
              "consequences, and everything that does not fit");
  auto recipe = std::make_shared<std::string>();
  command->add_option("recipe", *recipe, "The recipe, a TOML file")
      ->required();
  SetAction(command, context,
            [recipe, &context] { return Plan(*recipe, context); });
}

}  // namespace motet::coordinator
