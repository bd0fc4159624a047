// SPDX-License-Identifier: Apache-2.0
// motet compose apply RECIPE.toml: writes compositions/NAME, the lock and the
// recipe. That is all that most compositions are: packages stay where they
// lie. Where the method makes weights they are written beside the lock; so are
// router rows that the recipe wants tuned: that run can be stopped and goes on
// from its checkpoint when the recipe is applied again. It is a new folder
// that takes the old one's place when all of it is there.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "compose/assemble/composition.h"
#include "compose/assemble/tuning.h"
#include "compose/retrieve/retriever.h"
#include "coordinator/commands/compose_parts.h"
#include "coordinator/json_text.h"
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

// Writes what a composition has beside its lock into a folder, and may fill
// the lock in.
using Make = std::function<absl::Status(const std::string& partial,
                                        ProgressLine& progress,
                                        v1::CompositionLock& lock)>;

// Lock, recipe and what `make` (may be null) makes into a folder beside
// `folder`, which then change places. Whatever ends it before, what was there
// is there, untouched. The caller holds the composition's lock.
absl::Status WriteWhole(const ComposeSession& session,
                        v1::CompositionLock& lock,
                        const assemble::PackageFolder& folder_of,
                        const std::string& recipe, const std::string& folder,
                        const Make& make) {
  const Federation& federation = session.federation;
  const std::string partial = federation.Path(
      absl::StrCat("compositions/.", lock.name(), ".partial"));
  std::error_code ignored;
  std::filesystem::remove_all(partial, ignored);  // of one that was killed
  const absl::Cleanup clean = [&] {
    std::filesystem::remove_all(partial, ignored);
  };
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(partial));
  const absl::Time start = absl::Now();
  std::optional<ProgressLine> progress;
  if (make) {
    progress.emplace(lock.has_tuning() ? "tuning" : "compose");
    MOTET_RETURN_IF_ERROR(make(partial, *progress, lock));
    assemble::LoadOptions load;
    load.folder = partial;
    MOTET_RETURN_IF_ERROR(  // what cannot be loaded is not applied
        assemble::LoadComposition(lock, folder_of, load).status());
  }
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(
      absl::StrCat(partial, "/", kStoredRecipe), recipe));
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(partial + "/motet.lock",
                                               assemble::WriteLock(lock)));
  MOTET_RETURN_IF_ERROR(proto::ExchangeDurably(partial, folder));
  if (progress.has_value()) {
    progress->Finish(absl::StrFormat(
        "in place after %.1f s", absl::ToDoubleSeconds(absl::Now() - start)));
  }
  return absl::OkStatus();
}

Make Build(const assemble::PackageFolder& folder_of) {
  return [&folder_of, start = absl::Now()](const std::string& partial,
                                           ProgressLine& progress,
                                           v1::CompositionLock& lock) {
    return assemble::BuildComposition(
        lock, folder_of, partial, [&](double fraction) {
          progress.Update(fraction, TimeLeft(fraction, absl::Now() - start));
        });
  };
}

// Checkpoints of a composition's tunings: one for each lock that was asked
// for, so that another recipe begins anew.
constexpr int kDigits = 12;
std::string CheckpointName(v1::CompositionLock pending) {
  pending.clear_software();  // as TunedAlike has it
  const std::string sha256 =
      proto::Hex(proto::Sha256(assemble::WriteLock(pending)));
  return absl::StrCat("tune-", pending.name(), "-", sha256.substr(0, kDigits),
                      ".checkpoint");
}
void RemoveCheckpoints(const Federation& federation, const std::string& name,
                       const std::string& but) {
  const auto files = proto::ListDirectory(federation.Path("work"));
  if (!files.ok()) return;
  const std::string prefix = absl::StrCat("tune-", name, "-");
  const std::string suffix = ".checkpoint";
  std::error_code ignored;
  for (const std::string& file : *files) {
    if (file.size() == prefix.size() + kDigits + suffix.size() &&
        absl::StartsWith(file, prefix) && absl::EndsWith(file, suffix) &&
        file != but) {
      std::filesystem::remove(federation.Path("work/" + file), ignored);
    }
  }
}

Make Tune(const Federation& federation,
          const assemble::PackageFolder& folder_of,
          const std::vector<std::string>& documents) {
  return [&](const std::string& partial, ProgressLine& progress,
             v1::CompositionLock& lock) -> absl::Status {
    const std::string checkpoint = CheckpointName(lock);
    RemoveCheckpoints(federation, lock.name(), checkpoint);
    WatchInterrupts();
    assemble::TuneOptions options;
    options.checkpoint_path = federation.Path("work/" + checkpoint);
    options.progress = [&](const learn::TrainProgress& p) {
      progress.Update(static_cast<double>(p.step) /
                          static_cast<double>(p.steps),
                      absl::StrFormat("step %d of %d, loss %.3f, %.0f "
                                      "tokens/s, %.0f s left",
                                      p.step, p.steps, p.loss,
                                      p.tokens_per_second, p.eta_seconds));
      return !Interrupted();
    };
    auto tuned = assemble::TuneComposition(lock, folder_of, documents,
                                           partial, options);
    if (absl::IsCancelled(tuned.status())) {
      return absl::CancelledError(absl::StrCat(
          tuned.status().message(), "; the same command goes on from there"));
    }
    MOTET_RETURN_IF_ERROR(tuned.status());
    lock = *std::move(tuned);
    return absl::OkStatus();
  };
}

absl::Status Apply(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(const RecipeParts parts,
                         GatherParts(session, options.recipe));
  return ApplyParts(session, parts, options.recipe, options.dry_run,
                    /*show_changes=*/false, context);
}

// What the plan's method learns from text, with what it adds to the lock.
absl::Status Learn(const assemble::Recipe& recipe,
                   const assemble::PackageFolder& folder_of,
                   assemble::Plan& plan) {
  const absl::Time start = absl::Now();
  std::unique_ptr<ProgressLine> progress;  // most methods learn nothing
  MOTET_RETURN_IF_ERROR(assemble::LearnLock(
      recipe, folder_of,
      [&](double fraction) {
        if (progress == nullptr) {
          progress = std::make_unique<ProgressLine>("text");
        }
        progress->Update(fraction, TimeLeft(fraction, absl::Now() - start));
      },
      plan.lock));
  if (progress != nullptr) {
    plan.new_bytes =
        static_cast<int64_t>(assemble::WriteLock(plan.lock).size());
    progress->Finish(absl::StrFormat(
        "read after %.1f s", absl::ToDoubleSeconds(absl::Now() - start)));
  }
  return absl::OkStatus();
}

// The recipe with the versions that were taken, for add and rm.
absl::StatusOr<std::string> PinnedRecipe(const RecipeParts& parts) {
  std::vector<std::string> ids;
  std::vector<int> positions;
  for (const assemble::Part& part : parts.experts) {
    positions.push_back(static_cast<int>(ids.size()));
    ids.push_back(part.manifest.id());
  }
  std::vector<std::string> data;
  if (parts.recipe.tuning.has_value()) data = parts.recipe.tuning->data;
  MOTET_ASSIGN_OR_RETURN(
      std::string text, assemble::RecipeWith(parts.text, ids, positions, data));
  if (parts.pilots.empty()) return text;
  std::vector<std::string> pilots;
  for (const assemble::Part& part : parts.pilots) {
    pilots.push_back(part.manifest.id());
  }
  return assemble::RecipeWithPilots(text, pilots);
}

}  // namespace

absl::StatusOr<proto::FileLock> HoldComposition(const Federation& federation,
                                                const std::string& name) {
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(federation.Path("work")));
  return proto::FileLock::Take(
      federation.Path(absl::StrCat("work/compose-", name)), "compose apply");
}

absl::Status ApplyParts(const ComposeSession& session, const RecipeParts& parts,
                        const std::string& where, bool dry_run,
                        bool show_changes, const Context& context,
                        std::optional<proto::FileLock> held) {
  assemble::Plan plan =
      assemble::MakePlan(parts.recipe, parts.base, parts.experts, parts.pilots);
  if (!context.json && dry_run && !show_changes) {
    PrintPlan(plan, parts.experts);
  }
  MOTET_RETURN_IF_ERROR(PlanStatus(plan, where));
  const assemble::PackageFolder folder_of = FolderOf(session, parts);
  MOTET_RETURN_IF_ERROR(Learn(parts.recipe, folder_of, plan));
  if (!dry_run && !held.has_value()) {
    MOTET_ASSIGN_OR_RETURN(
        held, HoldComposition(session.federation, plan.lock.name()));
  }
  std::optional<assemble::PlanDiff> diff;
  if (show_changes) {
    MOTET_ASSIGN_OR_RETURN(diff, DiffOf(session, plan));
  }
  if (diff.has_value() && !context.json) PrintDiff(*diff, plan.lock.name());

  v1::CompositionLock lock = plan.lock;
  const bool tuned = lock.has_tuning();
  const bool weights = assemble::HoldsWeights(lock) || tuned;
  if (!weights) {  // what cannot be loaded is not applied
    assemble::LoadOptions load;
    load.verify = assemble::Verify::kFresh;
    MOTET_RETURN_IF_ERROR(
        assemble::TakesPilots(lock.method())
            ? retrieve::Retriever::Load(lock, folder_of, math::Product::kExact,
                                        load)
                  .status()
            : assemble::LoadComposition(lock, folder_of, load).status());
  }
  MOTET_ASSIGN_OR_RETURN(const std::string recipe, PinnedRecipe(parts));
  const std::string folder = session.federation.Path(
      absl::StrCat("compositions/", plan.lock.name()));
  const std::string path = folder + "/motet.lock";
  const auto before = proto::ReadFile(path, proto::kMaxManifestBytes);
  if (tuned && before.ok()) {  // rows that are there serve, if all else is so
    const auto old = assemble::ParseLock(*before, path);
    if (old.ok() && assemble::TunedAlike(*old, lock)) lock = *old;
  }
  const bool same = before.ok() && *before == assemble::WriteLock(lock) &&
                    (!weights || LoadNamed(session, lock).ok());
  if (tuned && !same) lock = plan.lock;
  const std::string action = same           ? "unchanged"
                             : dry_run      ? "dry run, not written"
                             : before.ok()  ? "replaced"
                                            : "written";
  const std::string stored = absl::StrCat(folder, "/", kStoredRecipe);
  if (!dry_run && !same) {
    MOTET_RETURN_IF_ERROR(
        WriteWhole(session, lock, folder_of, recipe, folder,
                   tuned ? Tune(session.federation, folder_of, parts.documents)
                   : weights ? Build(folder_of)
                             : Make()));
    if (tuned) RemoveCheckpoints(session.federation, lock.name(), "");
  } else if (!dry_run && !proto::Exists(stored)) {  // of an earlier version
    MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(stored, recipe));
  }
  // Of rows that were not tuned yet there is no lock.
  const bool pending = tuned && lock.tuning().rows_sha256().empty();
  const std::string sha256 =
      pending ? std::string("to be tuned")
              : proto::Hex(proto::Sha256(assemble::WriteLock(lock)));
  if (context.json) {
    nlohmann::ordered_json json = {{"name", plan.lock.name()},
                                   {"lock", path},
                                   {"lock_sha256",
                                    pending ? nlohmann::ordered_json()
                                            : nlohmann::ordered_json(sha256)},
                                   {"action", action}};
    if (diff.has_value()) json["changes"] = DiffJson(*diff);
    absl::PrintF("%s\n", JsonText(json));
  } else {
    absl::PrintF("%s: the base and %d experts, %s, exclusion %s\n"
                 "%s  %s (%s), %s; %s of weights stay where they are\n",
                 lock.name(), lock.experts_size(), MethodText(lock),
                 lock.exclusion(), path,
                 action, sha256.substr(0, 12), BytesText(plan.new_bytes),
                 BytesText(plan.referenced_bytes));
  }
  return absl::OkStatus();
}

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
