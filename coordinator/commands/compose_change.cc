// SPDX-License-Identifier: Apache-2.0
// motet compose add NAME EXPERT, motet compose rm NAME EXPERT: the stored
// recipe with one expert more or less, what that changes, and the apply.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/commands/compose_parts.h"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string name;
  std::string expert;
  bool dry_run = false;
};

std::string NameOf(const std::string& id) { return id.substr(0, id.find('@')); }

// The recipe that made the lock, by the lock's own versions.
absl::StatusOr<std::string> Stored(const Federation& federation,
                                   const v1::CompositionLock& lock,
                                   const std::string& path) {
  const std::string hint = "run `motet compose apply` with its recipe again";
  if (!proto::Exists(path)) {
    return proto::Error(absl::StatusCode::kNotFound, path, "no such file",
                        "the recipe of the composition", hint);
  }
  MOTET_ASSIGN_OR_RETURN(const std::string text,
                         proto::ReadFile(path, proto::kMaxRecipeBytes));
  MOTET_ASSIGN_OR_RETURN(const assemble::Recipe recipe,
                         assemble::ParseRecipe(text, path));
  std::vector<std::string> ids;
  for (const v1::LockedExpert& e : lock.experts()) ids.push_back(e.id());
  if (recipe.experts == ids && recipe.name == lock.name()) return text;
  return proto::Error(
      absl::StatusCode::kDataLoss, path,
      absl::StrCat("experts ", absl::StrJoin(recipe.experts, ", ")),
      absl::StrCat("the lock's, ", absl::StrJoin(ids, ", ")), hint);
}

// Pilots that stay as they are: of the experts that do. With another version
// of one, the newest of everybody: the old ones point to the old version.
std::vector<std::string> Kept(const v1::CompositionLock& lock,
                              const std::vector<std::string>& ids,
                              bool replaced) {
  std::vector<std::string> kept;
  for (const v1::LockedPilots& pilots : lock.retriever().pilots()) {
    if (!replaced &&
        std::find(ids.begin(), ids.end(), pilots.of()) != ids.end()) {
      kept.push_back(pilots.id());
    }
  }
  return kept;
}

absl::Status Change(const Options& options, bool add, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  // Of no composition there is nothing to hold.
  MOTET_RETURN_IF_ERROR(ReadLock(session.federation, options.name).status());
  std::optional<proto::FileLock> held;
  if (!options.dry_run) {
    MOTET_ASSIGN_OR_RETURN(held,
                           HoldComposition(session.federation, options.name));
  }
  MOTET_ASSIGN_OR_RETURN(const v1::CompositionLock lock,
                         ReadLock(session.federation, options.name));
  const std::string path = session.federation.Path(
      absl::StrCat("compositions/", options.name, "/", kStoredRecipe));
  MOTET_ASSIGN_OR_RETURN(const std::string text,
                         Stored(session.federation, lock, path));
  std::vector<std::string> ids, known;
  std::vector<int> positions;
  bool found = false;
  for (int i = 0; i < lock.experts_size(); ++i) {
    const std::string& id = lock.experts(i).id();
    known.push_back(id);
    const bool named = NameOf(id) == NameOf(options.expert);
    found = found || named;
    // A version of its own must be the one that is there.
    if (!add && named &&
        (options.expert == id || options.expert == NameOf(id))) {
      continue;
    }
    // Added again: another version in the same place.
    ids.push_back(add && named ? options.expert : id);
    positions.push_back(i);
  }
  const std::string have = known.empty() ? "none" : absl::StrJoin(known, ", ");
  if (!add && static_cast<int>(ids.size()) == lock.experts_size()) {
    return proto::Error(
        absl::StatusCode::kNotFound, absl::StrCat("compose rm ", options.name),
        absl::StrCat("expert ", options.expert), absl::StrCat("one of ", have));
  }
  if (add && !found) {
    ids.push_back(options.expert);
    positions.push_back(-1);
  }
  MOTET_ASSIGN_OR_RETURN(std::string changed,
                         assemble::RecipeWith(text, ids, positions));
  if (assemble::TakesPilots(lock.method())) {
    MOTET_ASSIGN_OR_RETURN(
        changed,
        assemble::RecipeWithPilots(changed, Kept(lock, ids, add && found)));
  }
  MOTET_ASSIGN_OR_RETURN(const RecipeParts parts,
                         GatherRecipe(session, changed, path));
  return ApplyParts(session, parts, path, options.dry_run,
                    /*show_changes=*/true, context, std::move(held));
}

void AddChange(CLI::App& noun, Context& context, bool add) {
  CLI::App* command = noun.add_subcommand(
      add ? "add" : "rm",
      add ? "Add an expert to a composition, or take another version of one"
          : "Take an expert out of a composition");
  auto options = std::make_shared<Options>();
  command->add_option("name", options->name, "The composition's name")
      ->required();
  command
      ->add_option("expert", options->expert,
                   "owner/name@version, or owner/name")
      ->required();
  command->add_flag("--dry-run", options->dry_run,
                    "Show what would change, write nothing");
  SetAction(command, context, [options, add, &context] {
    return Change(*options, add, context);
  });
}

}  // namespace

void AddComposeAdd(CLI::App& noun, Context& context) {
  AddChange(noun, context, true);
}

void AddComposeRm(CLI::App& noun, Context& context) {
  AddChange(noun, context, false);
}

}  // namespace motet::coordinator
