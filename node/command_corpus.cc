// SPDX-License-Identifier: Apache-2.0
// motet-node corpus import: the owner's text, or documents, queries and
// judgements in BEIR layout, into the node's folder.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
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
                             .dump(-1, ' ', false,
                                   nlohmann::json::error_handler_t::replace));
  } else {
    absl::PrintF(
        "%d documents read: %d for training, %d for testing; %d duplicates "
        "and %d empty ones left out.\nThey are in %s and leave it never.\n",
        r.read, r.train, r.test, r.duplicates, r.empty,
        settings.Path("corpus"));
  }
  return absl::OkStatus();
}

absl::Status ImportBeir(const std::string& folder, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Settings settings, LoadSettings(context.dir));
  MOTET_ASSIGN_OR_RETURN(RetrievalImport r, ImportRetrieval(settings, folder));
  if (context.json) {
    absl::PrintF("%s\n",
                 nlohmann::json{{"documents", r.documents},
                                {"empty_documents", r.empty_documents},
                                {"queries", r.queries},
                                {"judgements", r.judgements}}
                     .dump());
  } else {
    absl::PrintF(
        "%d documents (%d without text), %d training queries, %d "
        "judgements.\nThey are in %s and leave it never.\n",
        r.documents, r.empty_documents, r.queries, r.judgements,
        settings.Path("corpus/retrieval"));
  }
  return absl::OkStatus();
}

// One folder is a BEIR set; otherwise files, as before.
absl::Status ImportAny(const Options& options, const Context& context) {
  std::error_code ignored;
  for (const std::string& path : options.files) {
    if (!std::filesystem::is_directory(path, ignored)) continue;
    if (options.files.size() == 1) return ImportBeir(path, context);
    return proto::Invalid("corpus import",
                          absl::StrCat(path, ", a folder, among ",
                                       options.files.size(), " paths"),
                          "one BEIR folder alone, or files");
  }
  return Import(options, context);
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
                   "JSON lines, {\"text\": \"...\"} each; or one folder with "
                   "corpus.jsonl, queries.jsonl and qrels/train.tsv, for "
                   "retrieval")
      ->required();
  command
      ->add_option("--test-percent", options->test_percent,
                   "Share of documents kept for testing")
      ->check(CLI::Range(0, 90))
      ->capture_default_str();
  AddOutput(command, context);
  SetAction(command, context,
            [options, &context] { return ImportAny(*options, context); });
}

}  // namespace motet::node
