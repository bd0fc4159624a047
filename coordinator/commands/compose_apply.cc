// SPDX-License-Identifier: Apache-2.0
// motet compose apply RECIPE.toml: writes compositions/NAME/motet.lock. That
// is all a composition is: packages stay where they lie.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/commands/compose_parts.h"
#include "nlohmann/json.hpp"
#include "proto/digest.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string recipe;
  bool dry_run = false;
};

absl::Status Apply(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(const RecipeParts parts,
                         GatherParts(session, options.recipe));
  const assemble::Plan plan =
      assemble::MakePlan(parts.recipe, parts.base, parts.experts);
  if (!context.json && options.dry_run) PrintPlan(plan, parts.experts);
  MOTET_RETURN_IF_ERROR(PlanStatus(plan, options.recipe));

  // What cannot be loaded is not applied.
  MOTET_RETURN_IF_ERROR(
      assemble::LoadComposition(plan.lock, FolderOf(session)).status());
  const std::string text = assemble::WriteLock(plan.lock);
  const std::string folder = session.federation.Path(
      absl::StrCat("compositions/", plan.lock.name()));
  const std::string path = folder + "/motet.lock";
  const auto before = proto::ReadFile(path, proto::kMaxManifestBytes);
  const std::string action = before.ok() && *before == text ? "unchanged"
                             : options.dry_run ? "dry run, not written"
                             : before.ok()     ? "replaced"
                                               : "written";
  if (!options.dry_run && action != "unchanged") {
    MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder));
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(path, text));
  }
  const std::string sha256 = proto::Hex(proto::Sha256(text));
  if (context.json) {
    absl::PrintF("%s\n", nlohmann::ordered_json{{"name", plan.lock.name()},
                                                {"lock", path},
                                                {"lock_sha256", sha256},
                                                {"action", action}}
                             .dump());
  } else {
    absl::PrintF("%s: the base and %d experts, router %s, exclusion %s\n"
                 "%s  %s (%s), %s; %s of weights stay where they are\n",
                 plan.lock.name(), plan.lock.experts_size(),
                 plan.lock.router().kind(), plan.lock.exclusion(), path,
                 action, sha256.substr(0, 12), BytesText(plan.new_bytes),
                 BytesText(plan.referenced_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

void AddComposeApply(CLI::App& noun, Context& context) {
  CLI::App* command = noun.add_subcommand(
      "apply", "Compose what a recipe asks for: write its motet.lock");
  auto options = std::make_shared<Options>();
  command->add_option("recipe", options->recipe, "The recipe, a TOML file")
      ->required();
  command->add_flag("--dry-run", options->dry_run,
                    "Check and show everything, write nothing");
  SetAction(command, context,
            [options, &context] { return Apply(*options, context); });
}

}  // namespace motet::coordinator
