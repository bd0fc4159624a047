// SPDX-License-Identifier: Apache-2.0
// motet-node corpus import: the owner's text into the node's folder.
#include <CLI/CLI.hpp>
#include <memory>
#include <vector>

#include "absl/strings/str_format.h"
#include "node/cli.h"
#include "node/corpus_store.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::node {
namespace {

struct Options {
  std::vector<std::string> files;
  int test_percent = 10;
};

absl::Status Import(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Settings settings, LoadSettings(context.dir));
  MOTET_ASSIGN_OR_RETURN(
      ImportResult r,
      ImportCorpus(settings, options.files, options.test_percent));
  if (context.json) {
    absl::PrintF("%s\n", nlohmann::json{{"read", r.read},
                                        {"train", r.train},
                                        {"test", r.test},
                                        {"duplicates", r.duplicates},
                                        {"empty", r.empty}}
                             .dump());
  } else {
    absl::PrintF(
        "%d documents read: %d for training, %d for testing; %d duplicates "
        "and %d empty ones left out.\nThey are in %s and leave it never.\n",
        r.read, r.train, r.test, r.duplicates, r.empty,
        settings.Path("corpus"));
  }
  return absl::OkStatus();
}

}  // namespace

void AddCorpus(CLI::App& app, Context& context) {
  CLI::App* noun = app.add_subcommand("corpus", "The text to train on");
  noun->require_subcommand(1);
  CLI::App* command = noun->add_subcommand(
      "import", "Replace the node's corpus by these files' documents, "
                "de-duplicated and split by hash into train and test");
  auto options = std::make_shared<Options>();
  command
      ->add_option("files", options->files,
                   "JSON lines, {\"text\": \"...\"} each")
      ->required();
  command
      ->add_option("--test-percent", options->test_percent,
                   "Share of documents kept for testing")
      ->check(CLI::Range(0, 90))
      ->capture_default_str();
  AddOutput(command, context);
  SetAction(command, context,
            [options, &context] { return Import(*options, context); });
}

}  // namespace motet::node
