// SPDX-License-Identifier: Apache-2.0
// motet index build|add|rm|info: a document index on this disk
// (docs/retrieval.md). No federation is needed or looked for.
#include "compose/retrieve/index.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compose/retrieve/index_writer.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/retrieval_parts.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

using retrieve::IndexWriter;

struct Options {
  std::string index, encoder, corpus, kind = "auto";
  std::vector<std::string> ids;
  bool replace = false, check = false;
  math::Product product = math::Product::kExact;
};

absl::Status BuildStructure(IndexWriter& writer, bool whole) {
  const int64_t before = writer.structure_rows();
  ProgressLine progress("structure", ProgressLine::kTerminal);
  MOTET_RETURN_IF_ERROR(writer.Build(whole, [&](double fraction) {
    progress.Update(fraction, absl::StrCat(writer.rows(), " vectors"));
  }));
  if (writer.structure_rows() != before) {
    progress.Finish(absl::StrCat(writer.structure_rows(), " vectors"));
  }
  return absl::OkStatus();
}

// Documents into the index, then the structure; says what became of them.
absl::Status AddDocuments(IndexWriter& writer, const Options& options,
                          const retrieve::TextEncoder& base, bool whole,
                          const Context& context) {
  ProgressLine progress("documents");
  retrieve::AddOptions add;
  add.replace = options.replace;
  add.progress = [&](int64_t done, int64_t all) {
    progress.Update(static_cast<double>(done) / static_cast<double>(all),
                    absl::StrCat(done, " of ", all, " safe"));
  };
  MOTET_ASSIGN_OR_RETURN(
      const retrieve::AddReport report,
      retrieve::AddCorpus(writer, base, options.corpus, add));
  progress.Finish(absl::StrCat(
      report.added, " added, ", report.replaced, " replaced, ",
      report.unchanged, " there already",
      report.cut == 0 ? ""
                      : absl::StrCat(", ", report.cut, " cut at ",
                                     base.max_tokens(), " tokens"),
      report.empty == 0
          ? ""
          : absl::StrCat(", ", report.empty, " without text left out")));
  MOTET_RETURN_IF_ERROR(BuildStructure(writer, whole));
  if (context.json) {
    absl::PrintF(
        "%s\n", JsonText(nlohmann::ordered_json{{"index", options.index},
                                                {"added", report.added},
                                                {"replaced", report.replaced},
                                                {"unchanged", report.unchanged},
                                                {"cut", report.cut},
                                                {"empty", report.empty},
                                                {"rows", writer.rows()}}));
  } else {
    absl::PrintF("%s: %d documents added, %d replaced, %d there already\n",
                 options.index, report.added, report.replaced,
                 report.unchanged);
  }
  return absl::OkStatus();
}

absl::Status RunBuild(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const auto kind,
                         retrieve::ParseIndexKind(options.kind));
  MOTET_ASSIGN_OR_RETURN(
      const auto base,
      retrieve::TextEncoder::Load(options.encoder, options.product));
  MOTET_ASSIGN_OR_RETURN(
      const auto writer,
      IndexWriter::Create(options.index, retrieve::HeaderFor(*base, kind)));
  return AddDocuments(*writer, options, *base, /*whole=*/true, context);
}

absl::Status RunAdd(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const auto writer, IndexWriter::Open(options.index));
  MOTET_ASSIGN_OR_RETURN(
      const auto base,
      retrieve::TextEncoder::Load(options.encoder.empty()
                                      ? writer->header().encoder_folder
                                      : options.encoder,
                                  options.product));
  return AddDocuments(*writer, options, *base, /*whole=*/false, context);
}

absl::Status RunRemove(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const auto writer, IndexWriter::Open(options.index));
  MOTET_RETURN_IF_ERROR(writer->Remove(options.ids));
  if (context.json) {
    absl::PrintF("%s\n",
                 JsonText(nlohmann::ordered_json{{"index", options.index},
                                                 {"removed", options.ids}}));
  } else {
    absl::PrintF("%s: %d documents removed\n", options.index,
                 options.ids.size());
  }
  return absl::OkStatus();
}

absl::Status RunInfo(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const auto index,
                         retrieve::Index::Open(options.index));
  if (options.check) MOTET_RETURN_IF_ERROR(index->VerifyTexts());
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> fields,
                         index->Fields());
  const retrieve::IndexHeader& header = index->header();
  const std::string content = proto::Hex(index->ContentDigest());
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::ordered_json{
                             {"index", options.index},
                             {"documents", index->documents()},
                             {"dead", index->rows() - index->documents()},
                             {"kind", retrieve::Name(header.kind)},
                             {"structure", retrieve::Name(index->kind())},
                             {"structure_rows", index->structure_rows()},
                             {"width", header.width},
                             {"max_tokens", header.max_tokens},
                             {"fields", fields},
                             {"encoder", header.encoder_folder},
                             {"encoder_sha256", proto::Hex(header.encoder)},
                             {"content_sha256", content}}));
    return absl::OkStatus();
  }
  absl::PrintF("documents  %d, and %d rows of removed ones\n",
               index->documents(), index->rows() - index->documents());
  absl::PrintF("kind       %s, in force: %s", retrieve::Name(header.kind),
               retrieve::Name(index->kind()));
  if (index->structure_rows() > 0) {
    absl::PrintF(" over %d rows", index->structure_rows());
  }
  absl::PrintF("\nvectors    %d numbers, texts cut at %d tokens\n",
               header.width, header.max_tokens);
  absl::PrintF("fields     %s\n",
               fields.empty() ? "none" : absl::StrJoin(fields, ", "));
  absl::PrintF("encoder    %s\n           %s\n", header.encoder_folder,
               proto::Hex(header.encoder));
  absl::PrintF("content    %s\n", content);
  return absl::OkStatus();
}

void AddCorpusOptions(CLI::App& command, Options& options) {
  command
      .add_option("--data", options.corpus,
                  "corpus.jsonl: {\"_id\", \"title\", \"text\", \"metadata\"} "
                  "a line")
      ->required();
  command.add_flag("--replace", options.replace,
                   "Put the new text in the place of one with the same id");
  AddArithmeticOption(command, options.product);
}

CLI::App* Command(CLI::App& noun, const char* name, const char* description,
                  Options& options) {
  CLI::App* command = noun.add_subcommand(name, description);
  command->add_option("INDEX", options.index, "The index's folder")->required();
  return command;
}

}  // namespace

void AddIndex(CLI::App& app, Context& context) {
  CLI::App* noun = Noun(app, "index", "Document indexes: build, add, rm, info");
  auto build = std::make_shared<Options>();
  CLI::App* command = Command(
      *noun, "build",
      "Make an index of a corpus, or go on with one that was interrupted",
      *build);
  command
      ->add_option("--encoder", build->encoder,
                   "Folder of the BERT encoder, frozen, for documents")
      ->required();
  command
      ->add_option("--kind", build->kind,
                   "How near vectors are found; auto: by the number of "
                   "documents")
      ->check(CLI::IsMember({"auto", "flat", "hnsw", "ivf-pq"}))
      ->capture_default_str();
  AddCorpusOptions(*command, *build);
  SetAction(command, context,
            [build, &context] { return RunBuild(*build, context); });

  auto add = std::make_shared<Options>();
  command = Command(*noun, "add", "Add documents to an index", *add);
  command->add_option("--encoder", add->encoder,
                      "Where the index's encoder lies now");
  AddCorpusOptions(*command, *add);
  SetAction(command, context,
            [add, &context] { return RunAdd(*add, context); });

  auto remove = std::make_shared<Options>();
  command = Command(*noun, "rm", "Remove documents from an index", *remove);
  command->add_option("ID", remove->ids, "Documents' ids")->required();
  SetAction(command, context,
            [remove, &context] { return RunRemove(*remove, context); });

  auto info = std::make_shared<Options>();
  command = Command(*noun, "info",
                    "What an index holds; every vector is checked", *info);
  command->add_flag("--check", info->check, "Check the text store too");
  SetAction(command, context,
            [info, &context] { return RunInfo(*info, context); });
}

}  // namespace motet::coordinator
