// SPDX-License-Identifier: Apache-2.0
// motet corpus pack|import: text files into documents, documents
// de-duplicated and split by hash. Owners import with `motet-node corpus
// import`, on their own machine.
#include "compose/learn/corpus.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/cli.h"
#include "coordinator/json_text.h"
#include "coordinator/text_files.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::vector<std::string> files;
  std::string out;
  int test_percent = 10;
};

struct PackOptions {
  std::vector<std::string> files;
  std::string out;
  TextFileOptions text;
  int64_t max_bytes = 0;
};

absl::Status Pack(PackOptions options, const Context& context) {
  if (options.files.empty()) {
    for (std::string line; std::getline(std::cin, line);) {
      if (!line.empty()) options.files.push_back(line);
    }
  }
  ShuffleByName(options.files);
  std::vector<std::string> documents;
  int64_t bytes = 0, skipped = 0;
  for (const std::string& file : options.files) {
    if (options.max_bytes > 0 && bytes >= options.max_bytes) break;
    auto text = proto::ReadFile(file, proto::kMaxDocumentBytes);
    std::string document =
        text.ok() ? TextOf(*std::move(text), options.text) : "";
    if (document.empty()) {
      ++skipped;
      continue;
    }
    bytes += static_cast<int64_t>(document.size());
    documents.push_back(std::move(document));
  }
  if (documents.empty()) {
    return proto::Error(absl::StatusCode::kNotFound, "corpus pack",
                        "no readable text file", "at least one",
                        "name files, or pipe a list of paths in");
  }
  MOTET_RETURN_IF_ERROR(learn::WriteJsonl(options.out, documents));
  if (context.json) {
    absl::PrintF("%s\n",
                 JsonText(nlohmann::json{{"documents", documents.size()},
                                         {"bytes", bytes},
                                         {"skipped", skipped}}));
  } else {
    absl::PrintF("%d documents, %.1f MB, %d files passed over; in %s\n",
                 documents.size(), bytes / 1e6, skipped, options.out);
  }
  return absl::OkStatus();
}

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
    absl::PrintF("%s\n",
                 JsonText(nlohmann::json{{"train", split.train.size()},
                                         {"test", split.test.size()},
                                         {"duplicates", split.duplicates},
                                         {"empty", split.empty}}));
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
  auto pack = std::make_shared<PackOptions>();
  CLI::App* packing = noun->add_subcommand(
      "pack", "Text files into documents, one a file, in an order that "
              "depends on the names alone");
  packing->add_option("files", pack->files,
                      "Files; without any, paths are read from standard "
                      "input");
  packing->add_option("--out", pack->out, "The JSONL file to write")
      ->required();
  packing
      ->add_option("--max-document-bytes", pack->text.max_bytes,
                   "Longer files are cut at a line")
      ->check(CLI::Range(256, 1 << 24))
      ->capture_default_str();
  packing->add_option("--max-bytes", pack->max_bytes,
                      "Stop after this much text; 0 = all");
  packing->add_flag("--pod", pack->text.pod,
                    "Keep only the documentation (POD) of Perl files");
  SetAction(packing, context,
            [pack, &context] { return Pack(*pack, context); });
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
