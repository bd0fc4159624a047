// SPDX-License-Identifier: Apache-2.0
// What the compose and eval commands share: packages for a recipe, and
// compositions by name.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "compose/assemble/composition.h"
#include "compose/assemble/plan_diff.h"
#include "coordinator/cli.h"
#include "coordinator/federation.h"
#include "nlohmann/json.hpp"
#include "proto/files.h"
#include "registry/client.h"

namespace motet::coordinator {

// A federation and the way to its registry; nothing is connected before the
// first question that packages on this disk cannot answer.
struct ComposeSession {
  Federation federation;
  std::shared_ptr<registry::Client> client;
};
absl::StatusOr<ComposeSession> OpenComposeSession(const Context& context);

// Where a package lies, fetched and verified first when it is not here yet.
// The base's is the federation's own folder when the digests agree. Whoever
// reads more of one that was here than its manifest compares it with that.
assemble::PackageFolder FolderOf(const ComposeSession& session);

struct RecipeParts {
  assemble::Recipe recipe;
  assemble::Part base;
  std::vector<assemble::Part> experts;
  std::vector<assemble::Part> pilots;  // of methods that take them
  std::string text;  // of the recipe, where it was one
  std::vector<std::string> documents;  // that routers are tuned on
};
// Reads a recipe and gathers its packages: "owner/name" becomes the newest
// version in force, and an expert without pilots in the recipe gets the newest
// ones that its owner published under OWNER/pilots-... of it. Every package
// that cannot be had is named in one error.
absl::StatusOr<RecipeParts> GatherParts(const ComposeSession& session,
                                        const std::string& recipe_path);
absl::StatusOr<RecipeParts> GatherRecipe(const ComposeSession& session,
                                         const std::string& text,
                                         const std::string& where);
// The parts' own folders, verified just now.
assemble::PackageFolder FolderOf(const ComposeSession& session,
                                 const RecipeParts& parts);
// The same of a recipe that was read already.
absl::StatusOr<RecipeParts> GatherParts(const ComposeSession& session,
                                        assemble::Recipe recipe);

// A composition as it lies in the federation: with the weights that apply
// wrote, where its method writes some.
absl::StatusOr<std::unique_ptr<assemble::Composition>> LoadNamed(
    const ComposeSession& session, const v1::CompositionLock& lock,
    assemble::LoadOptions options = {});

// compositions/NAME/motet.lock. NotFound names the compositions there are.
absl::StatusOr<v1::CompositionLock> ReadLock(const Federation& federation,
                                             const std::string& name);

// "41 s left" once that can be said.
std::string TimeLeft(double fraction, absl::Duration since);
// "49.2 MiB", "12.3 M".
std::string BytesText(int64_t bytes);
std::string CountText(int64_t count);

// The commands of the noun "compose", one file each.
void AddComposePlan(CLI::App& noun, Context& context);
void AddComposeApply(CLI::App& noun, Context& context);
void AddComposeShow(CLI::App& noun, Context& context);
void AddComposeExport(CLI::App& noun, Context& context);
void AddComposeAdd(CLI::App& noun, Context& context);
void AddComposeRm(CLI::App& noun, Context& context);
// The commands of the noun "eval".
void AddEvalMatrix(CLI::App& noun, Context& context);
void AddEvalExclusion(CLI::App& noun, Context& context);
void AddEvalLogits(CLI::App& noun, Context& context);
void AddEvalPerplexity(CLI::App& noun, Context& context);
void AddEvalChoice(CLI::App& noun, Context& context);
void AddEvalRouting(CLI::App& noun, Context& context);

// "router topk, ..." or "merge ties, density 0.2, ...", for a line.
std::string MethodText(const v1::CompositionLock& lock);

// compositions/NAME/recipe.toml, beside the lock: what apply was asked for,
// each expert by the version that it became.
inline constexpr char kStoredRecipe[] = "recipe.toml";
// What the plan changes about the composition of its name; none there: null.
absl::StatusOr<std::optional<assemble::PlanDiff>> DiffOf(
    const ComposeSession& session, const assemble::Plan& plan);
void PrintDiff(const assemble::PlanDiff& diff, const std::string& name);
nlohmann::ordered_json DiffJson(const assemble::PlanDiff& diff);
// One that changes a composition at a time: taken before what is there is
// read, held until what takes its place is there.
absl::StatusOr<proto::FileLock> HoldComposition(const Federation& federation,
                                                const std::string& name);
// The parts' plan made true, or with dry_run only shown; where: for messages.
// Prints what apply prints, with show_changes the differences before it.
// held: HoldComposition's, of who read the composition before; otherwise it
// is taken here.
absl::Status ApplyParts(const ComposeSession& session, const RecipeParts& parts,
                        const std::string& where, bool dry_run,
                        bool show_changes, const Context& context,
                        std::optional<proto::FileLock> held = std::nullopt);

// How a plan is shown, by plan and by apply.
void PrintPlan(const assemble::Plan& plan,
               const std::vector<assemble::Part>& experts);
std::string PlanJson(const assemble::Plan& plan,
                     const std::optional<assemble::PlanDiff>& diff);
// OK, or one FailedPrecondition with every problem.
absl::Status PlanStatus(const assemble::Plan& plan, const std::string& recipe);

}  // namespace motet::coordinator
