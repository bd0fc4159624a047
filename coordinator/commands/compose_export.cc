// SPDX-License-Identifier: Apache-2.0
// motet compose export NAME --format hf --out DIR: for other programs. The
// folder appears whole or stays as it was.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "compose/assemble/export.h"
#include "coordinator/commands/compose_parts.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string name;
  std::string format = "hf";
  std::string out;
  std::string router;
  bool replace = false;
};

absl::Status Export(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(const v1::CompositionLock lock,
                         ReadLock(session.federation, options.name));
  assemble::LoadOptions load;
  load.router = options.router;
  load.verify = assemble::Verify::kLater;
  MOTET_ASSIGN_OR_RETURN(const auto composition,
                         LoadNamed(session, lock, load));
  const absl::Time start = absl::Now();
  ProgressLine progress("export");
  assemble::ExportOptions how;
  how.replace = options.replace;
  how.progress = [&](double fraction) {
    progress.Update(fraction, TimeLeft(fraction, absl::Now() - start));
  };
  MOTET_ASSIGN_OR_RETURN(
      const assemble::ExportReport report,
      assemble::ExportHuggingFace(*composition, options.out, how));
  progress.Finish(absl::StrFormat(
      "in place after %.1f s", absl::ToDoubleSeconds(absl::Now() - start)));
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::ordered_json{
                             {"folder", options.out},
                             {"architecture", report.architecture},
                             {"lost", report.lost}}));
    return absl::OkStatus();
  }
  absl::PrintF("%s: %s, for transformers\n", options.out,
               report.architecture);
  absl::PrintF("What this layout cannot hold:\n");
  for (const std::string& lost : report.lost) absl::PrintF("- %s\n", lost);
  return absl::OkStatus();
}

}  // namespace

void AddComposeExport(CLI::App& noun, Context& context) {
  CLI::App* command = noun.add_subcommand(
      "export", "Write a composition as a Hugging Face folder");
  auto options = std::make_shared<Options>();
  command->add_option("name", options->name, "The composition's name")
      ->required();
  command->add_option("--format", options->format, "The layout")
      ->check(CLI::IsMember({"hf"}))
      ->capture_default_str();
  command->add_option("--out", options->out, "A new or empty folder")
      ->required();
  command
      ->add_option("--router", options->router,
                   "Another router than the lock's, where that one has no "
                   "form in the layout")
      ->check(CLI::IsMember({"topk"}));
  command->add_flag("--replace", options->replace,
                    "Take the place of an earlier export at --out");
  SetAction(command, context,
            [options, &context] { return Export(*options, context); });
}

}  // namespace motet::coordinator
