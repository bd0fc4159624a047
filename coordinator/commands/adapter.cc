// SPDX-License-Identifier: Apache-2.0
// motet adapter train ENCODER --data DIR --out FOLDER: an embedding adapter of
// an encoder, in PEFT's layout, from queries and judged documents on this disk
// (docs/retrieval.md). No federation is needed or looked for.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/learn/adapter_run.h"
#include "compose/package/peft.h"
#include "compose/retrieve/adapter_data.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/number_options.h"
#include "coordinator/commands/retrieval_parts.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string encoder, out;
  std::vector<std::string> data;
  retrieve::BeirOptions beir;
  retrieve::AdapterDataOptions texts;
  learn::AdapterOptions train;
  Options() {
    beir.split = "train";
    texts.hard_pool = 32;
    train.steps = 200;
    train.checkpoint_every = 50;
  }
};

absl::StatusOr<retrieve::MadeAdapterData> Read(
    const Options& options, const retrieve::TextEncoder& base) {
  std::vector<retrieve::BeirSet> sets;
  int64_t documents = 0;
  for (const std::string& folder : options.data) {
    MOTET_ASSIGN_OR_RETURN(retrieve::BeirSet set,
                           retrieve::ReadBeir(folder, options.beir));
    documents += static_cast<int64_t>(set.documents.size());
    sets.push_back(std::move(set));
  }
  retrieve::AdapterDataOptions texts = options.texts;
  texts.seed = options.train.seed;
  if (options.train.hard_negatives == 0) texts.hard_pool = 0;
  ProgressLine progress("documents");
  texts.progress = [&](double fraction) {
    progress.Update(fraction, absl::StrCat(documents, " documents"));
    return !Interrupted();
  };
  MOTET_ASSIGN_OR_RETURN(retrieve::MadeAdapterData made,
                         retrieve::MakeAdapterData(base, sets, texts));
  std::string detail = absl::StrCat(documents, " vectors");
  if (made.cached == static_cast<int64_t>(sets.size())) {
    absl::StrAppend(&detail, ", from ", texts.cache);
  }
  if (made.cut_documents + made.cut_queries > 0) {
    absl::StrAppend(&detail, "; cut at ", base.max_tokens(), " tokens: ",
                    made.cut_documents, " documents, ", made.cut_queries,
                    " queries");
  }
  if (made.unanswered > 0) {
    absl::StrAppend(&detail, "; ", made.unanswered,
                    " queries without a document left out");
  }
  progress.Finish(detail);
  return made;
}

absl::Status Stopped(const absl::Status& status) {
  return absl::CancelledError(absl::StrCat(
      status.message(), "; the same command goes on from there"));
}

// Several data folders may end alike; the same one twice is a slip.
absl::Status CheckFolders(const Options& options) {
  std::set<std::string> seen;
  for (const std::string& folder : options.data) {
    std::error_code ignored;
    if (!seen.insert(std::filesystem::weakly_canonical(folder, ignored))
             .second) {
      return proto::Invalid("--data", absl::StrCat(folder, " twice"),
                            "each folder once");
    }
  }
  if (proto::Exists(options.out + "/adapter_config.json")) {
    return proto::Error(absl::StatusCode::kAlreadyExists, options.out,
                        "an adapter", "a new folder",
                        "remove it, or choose another --out");
  }
  return absl::OkStatus();
}

absl::Status Train(Options options, const Context& context) {
  while (absl::EndsWith(options.out, "/")) options.out.pop_back();
  MOTET_RETURN_IF_ERROR(CheckFolders(options));
  MOTET_ASSIGN_OR_RETURN(
      const auto base,
      retrieve::TextEncoder::Load(options.encoder, options.train.product));
  // What an interrupted run goes on from.
  const std::string work = options.out + ".work";
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(work));
  if (options.texts.cache.empty()) options.texts.cache = work;
  options.train.checkpoint_path = work + "/checkpoint.safetensors";
  MOTET_ASSIGN_OR_RETURN(const auto lock,
                         proto::FileLock::Take(work + "/lock", "training"));
  WatchInterrupts();
  auto read = Read(options, *base);
  if (absl::IsCancelled(read.status())) return Stopped(read.status());
  MOTET_ASSIGN_OR_RETURN(const retrieve::MadeAdapterData made,
                         std::move(read));

  const int64_t batch = std::min<int64_t>(
      options.train.batch_queries, std::ssize(made.data.queries));
  ProgressLine progress("adapter");
  int64_t first = -1;
  const auto report = [&](const learn::TrainProgress& p) {
    if (first < 0) first = p.step - 1;
    progress.Update(
        static_cast<double>(p.step) / static_cast<double>(p.steps),
        absl::StrFormat("step %d of %d, loss %.3f, %.0f queries/s, %.0f s left",
                        p.step, p.steps, p.loss,
                        static_cast<double>((p.step - first) * batch) /
                            p.seconds,
                        p.eta_seconds));
    return !Interrupted();
  };
  learn::TrainResult result;
  auto trained = learn::TrainAdapter(base->encoder(), made.data, options.train,
                                     report, &result);
  if (absl::IsCancelled(trained.status())) return Stopped(trained.status());
  MOTET_RETURN_IF_ERROR(trained.status());
  progress.Finish(absl::StrFormat("%d steps in %.0f s", result.steps,
                                  result.seconds));
  MOTET_RETURN_IF_ERROR(package::SaveLora(options.out, base->config(),
                                          trained->lora, options.encoder));
  // What this run made there, and the folder if nothing else lies in it.
  std::error_code ignored;
  std::vector<std::string> made_here = {options.train.checkpoint_path,
                                        work + "/lock"};
  for (const auto& entry : std::filesystem::directory_iterator(work, ignored)) {
    const std::string name = entry.path().filename().string();
    if (options.texts.cache == work && absl::StartsWith(name, "documents-")) {
      made_here.push_back(entry.path().string());
    }
  }
  for (const std::string& path : made_here) {
    std::filesystem::remove(path, ignored);
  }
  std::filesystem::remove(work, ignored);

  const double before = result.loss_curve.empty() ? 0 : result.loss_curve[0];
  const double after = result.loss_curve.empty() ? 0 : result.loss_curve.back();
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::ordered_json{
                             {"adapter", options.out},
                             {"encoder_sha256", proto::Hex(base->digest())},
                             {"queries", made.data.queries.size()},
                             {"queries_of_sets", made.data.sets},
                             {"cut_documents", made.cut_documents},
                             {"cut_queries", made.cut_queries},
                             {"unanswered_queries", made.unanswered},
                             {"steps", result.steps},
                             {"skipped", result.skipped},
                             {"seconds", result.seconds},
                             {"loss_every", result.loss_every},
                             {"loss_curve", result.loss_curve}}));
  } else {
    absl::PrintF("%s: %d queries, %d steps, loss %.3f to %.3f\n", options.out,
                 made.data.queries.size(), result.steps, before, after);
  }
  return absl::OkStatus();
}

}  // namespace

void AddAdapter(CLI::App& app, Context& context) {
  CLI::App* noun =
      Noun(app, "adapter", "Embedding adapters of a query encoder: train");
  auto o = std::make_shared<Options>();
  CLI::App* train = noun->add_subcommand(
      "train",
      "Train an adapter on queries and their documents, the base frozen");
  train->add_option("ENCODER", o->encoder, "Folder of the BERT encoder")
      ->required();
  train
      ->add_option("--data", o->data,
                   "Folder in BEIR layout; once for each, their queries are "
                   "pooled")
      ->required()
      ->allow_extra_args(false);
  train->add_option("--out", o->out, "The adapter's folder, a new one")
      ->required();
  train->add_option("--split", o->beir.split, "qrels/SPLIT.tsv to train on")
      ->capture_default_str();
  train->add_flag("--allow-missing", o->beir.allow_missing,
                  "Judgements of documents that the corpus has not are passed "
                  "over");
  train->add_option("--cache", o->texts.cache,
                    "Folder that keeps the documents' vectors for other runs");
  train->add_flag("--one-set-a-batch", o->train.one_set_a_batch,
                  "With several --data: a batch is of one of them, each as "
                  "often as its queries are many");
  const NumberOptions number{*train};
  number("--steps", o->train.steps, 1, 1e9, "Optimiser steps");
  number("--batch", o->train.batch_queries, 2, 65536, "Queries a step");
  number("--lr", o->train.learning_rate, 1e-9, 1,
         "Learning rate at the top of the schedule");
  number("--warmup", o->train.warmup_fraction, 0, 1,
         "Share of the steps over which the rate rises; then it falls to 0");
  number("--rank", o->train.rank, 1, 4096, "Rank of the adapter");
  number("--alpha", o->train.alpha, 1e-3, 1e6,
         "The adapter is scaled by alpha / rank");
  number("--dropout", o->train.dropout, 0, 0.99,
         "Share of the adapter's inputs that is dropped in training");
  number("--temperature", o->train.temperature, 1e-4, 100,
         "What scores are divided by");
  number("--clip", o->train.clip_norm, 0, 1e6,
         "Longest gradient; 0 for no clipping");
  number("--weight-decay", o->train.weight_decay, 0, 1,
         "Decoupled weight decay of AdamW");
  number("--hard-negatives", o->train.hard_negatives, 0, 1000,
         "Hard negatives a query, drawn from the base's ranking");
  number("--hard-pool", o->texts.hard_pool, 1, 10000,
         "How many of the base's best they are drawn from");
  number("--hard-skip", o->texts.hard_skip, 0, 10000,
         "How many of the very best are left out, as they may be relevant");
  number("--max-queries", o->texts.max_queries, 0, 1e9,
         "Queries of each --data, drawn by the seed; 0 for all");
  number("--query-tokens", o->train.query_tokens, 0, 65536,
         "Longer queries are cut; 0: at the encoder's limit");
  number("--seed", o->train.seed, 0, 9e15,
         "Seed of the first weights, the batches and the dropout");
  number("--checkpoint-every", o->train.checkpoint_every, 1, 1e9,
         "Steps between two checkpoints");
  train->add_option("--targets", o->train.targets,
                    "Maps that are adapted, as PEFT's target_modules")
      ->delimiter(',')
      ->capture_default_str();
  AddArithmeticOption(*train, o->train.product);
  SetAction(train, context,
            [o, &context] { return Train(*o, context); });
}

}  // namespace motet::coordinator
