// SPDX-License-Identifier: Apache-2.0
// motet corpus import: public documents, de-duplicated and split by hash.
// Owners do the same with `motet-node corpus import`, on their own machine.
#include <CLI/CLI.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/learn/corpus.h"
#include "coordinator/cli.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::vector<std::string> files;
  std::string out;
  int test_percent = 10;
};

absl::Status Run(const Options& options, const Context& context) {
  std::vector<std::string> documents;
  for (const std::string& file : options.files) {
    MOTET_ASSIGN_OR_RETURN(std::vector<std::string> more,
                           learn::ReadJsonl(file));
    documents.insert(documents.end(), std::make_move_iterator(more.begin()),
                     std::make_move_iterator(more.end()));
  }
  const learn::Split split =
      learn::DeduplicateAndSplit(documents, options.test_percent);
  if (split.train.empty()) {
    return proto::Invalid("corpus import", "no document for training",
                          "files with {\"text\": …} a line");
  }
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(options.out));
  MOTET_RETURN_IF_ERROR(
      learn::WriteJsonl(options.out + "/train.jsonl", split.train));
  MOTET_RETURN_IF_ERROR(
      learn::WriteJsonl(options.out + "/test.jsonl", split.test));
  if (context.json) {
    absl::PrintF("%s\n", nlohmann::json{{"train", split.train.size()},
                                        {"test", split.test.size()},
                                        {"duplicates", split.duplicates},
                                        {"empty", split.empty}}
                             .dump());
  } else {
    absl::PrintF("%d documents for training, %d for tests, %d duplicates and "
                 "%d empty ones left out; in %s\n",
                 split.train.size(), split.test.size(), split.duplicates,
                 split.empty, options.out);
  }
  return absl::OkStatus();
}

}  // namespace

void AddCorpus(CLI::App& app, Context& context) {
  CLI::App* noun = Noun(app, "corpus", "Public text");
  auto options = std::make_shared<Options>();
  CLI::App* command = noun->add_subcommand(
      "import", "De-duplicate documents and split them by hash into "
                "train.jsonl and test.jsonl");
  command->add_option("files", options->files, "JSONL files: {\"text\": …}")
      ->required();
  command->add_option("--out", options->out, "Folder for the two files")
      ->required();
  command
      ->add_option("--test-percent", options->test_percent,
                   "Share of documents kept for tests")
      ->check(CLI::Range(1, 50))
      ->capture_default_str();
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
