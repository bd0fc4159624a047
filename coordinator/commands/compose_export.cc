// SPDX-License-Identifier: Apache-2.0
// motet compose export NAME --format hf --out DIR: for other programs.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "absl/strings/str_format.h"
#include "compose/assemble/export.h"
#include "coordinator/commands/compose_parts.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string name;
  std::string format = "hf";
  std::string out;
};

absl::Status Export(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(const v1::CompositionLock lock,
                         ReadLock(session.federation, options.name));
  MOTET_ASSIGN_OR_RETURN(const auto composition, LoadNamed(session, lock));
  MOTET_ASSIGN_OR_RETURN(
      const assemble::ExportReport report,
      assemble::ExportHuggingFace(*composition, options.out));
  if (context.json) {
    absl::PrintF("%s\n",
                 nlohmann::ordered_json{{"folder", options.out},
                                        {"architecture", report.architecture},
                                        {"lost", report.lost}}
                     .dump());
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
  SetAction(command, context,
            [options, &context] { return Export(*options, context); });
}

}  // namespace motet::coordinator
