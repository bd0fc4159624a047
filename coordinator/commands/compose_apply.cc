// SPDX-License-Identifier: Apache-2.0
// motet compose apply RECIPE.toml: writes compositions/NAME/motet.lock. That
// is all that most compositions are: packages stay where they lie. Where the
// method makes weights they are written beside the lock, in a folder of their
// own that takes the old one's place when all of it is there.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
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

// Lock and weights into a folder beside `folder`, which then change places.
// Whatever ends it before, what was there is there, untouched.
absl::Status WriteWhole(const ComposeSession& session,
                        const v1::CompositionLock& lock,
                        const std::string& folder) {
  const Federation& federation = session.federation;
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(federation.Path("work")));
  MOTET_ASSIGN_OR_RETURN(
      const proto::FileLock held,
      proto::FileLock::Take(
          federation.Path(absl::StrCat("work/compose-", lock.name())),
          "compose apply"));
  const std::string partial = federation.Path(
      absl::StrCat("compositions/.", lock.name(), ".partial"));
  std::error_code ignored;
  std::filesystem::remove_all(partial, ignored);  // of one that was killed
  const absl::Cleanup clean = [&] {
    std::filesystem::remove_all(partial, ignored);
  };
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(partial));
  const absl::Time start = absl::Now();
  ProgressLine progress("compose");
  MOTET_RETURN_IF_ERROR(assemble::BuildComposition(
      lock, FolderOf(session), partial, [&](double fraction) {
        progress.Update(fraction, TimeLeft(fraction, absl::Now() - start));
      }));
  assemble::LoadOptions load;
  load.folder = partial;
  MOTET_RETURN_IF_ERROR(  // what cannot be loaded is not applied
      assemble::LoadComposition(lock, FolderOf(session), load).status());
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(partial + "/motet.lock",
                                               assemble::WriteLock(lock)));
  MOTET_RETURN_IF_ERROR(proto::ExchangeDurably(partial, folder));
  progress.Finish(absl::StrFormat(
      "in place after %.1f s", absl::ToDoubleSeconds(absl::Now() - start)));
  return absl::OkStatus();
}

absl::Status Apply(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(const RecipeParts parts,
                         GatherParts(session, options.recipe));
  const assemble::Plan plan =
      assemble::MakePlan(parts.recipe, parts.base, parts.experts);
  if (!context.json && options.dry_run) PrintPlan(plan, parts.experts);
  MOTET_RETURN_IF_ERROR(PlanStatus(plan, options.recipe));

  const bool weights = assemble::HoldsWeights(plan.lock);
  if (!weights) {  // what cannot be loaded is not applied
    MOTET_RETURN_IF_ERROR(
        assemble::LoadComposition(plan.lock, FolderOf(session)).status());
  }
  const std::string text = assemble::WriteLock(plan.lock);
  const std::string folder = session.federation.Path(
      absl::StrCat("compositions/", plan.lock.name()));
  const std::string path = folder + "/motet.lock";
  const auto before = proto::ReadFile(path, proto::kMaxManifestBytes);
  const bool same = before.ok() && *before == text &&
                    (!weights || LoadNamed(session, plan.lock).ok());
  const std::string action = same              ? "unchanged"
                             : options.dry_run ? "dry run, not written"
                             : before.ok()     ? "replaced"
                                               : "written";
  if (!options.dry_run && !same) {
    if (weights || proto::Exists(folder + "/weights.safetensors")) {
      MOTET_RETURN_IF_ERROR(WriteWhole(session, plan.lock, folder));
    } else {
      MOTET_RETURN_IF_ERROR(proto::MakeDirectories(folder));
      MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(path, text));
    }
  }
  const std::string sha256 = proto::Hex(proto::Sha256(text));
  if (context.json) {
    absl::PrintF("%s\n", nlohmann::ordered_json{{"name", plan.lock.name()},
                                                {"lock", path},
                                                {"lock_sha256", sha256},
                                                {"action", action}}
                             .dump());
  } else {
    absl::PrintF("%s: the base and %d experts, %s, exclusion %s\n"
                 "%s  %s (%s), %s; %s of weights stay where they are\n",
                 plan.lock.name(), plan.lock.experts_size(),
                 MethodText(plan.lock), plan.lock.exclusion(), path,
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
