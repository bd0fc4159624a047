// SPDX-License-Identifier: Apache-2.0
// motet encoder train --data FILE --out FOLDER: a BERT encoder and its
// tokenizer from nothing but documents, by random crops (docs/encoder.md). No
// federation is needed or looked for.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/learn/crop_run.h"
#include "compose/model/tokenizer.h"
#include "compose/package/encoder_folder.h"
#include "compose/retrieve/beir.h"
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
  std::vector<std::string> data;
  std::string out;
  int64_t vocabulary = 4096;
  int64_t max_tokens = 128;
  model::EncoderConfig config;
  learn::CropOptions train;
  Options() {
    config.width = 128;
    config.layers = 2;
    config.heads = 4;
    config.ffn_width = 512;
    config.token_types = 2;
    config.pad_id = 0;
    train.steps = 2000;
    train.checkpoint_every = 50;
  }
};

// Titles and texts of all files. Ids matter to nobody here, but a file whose
// ids are not its own is broken.
absl::StatusOr<std::vector<std::string>> ReadTexts(const Options& options) {
  std::vector<std::string> texts;
  for (const std::string& given : options.data) {
    const std::string path = std::filesystem::is_directory(given)
                                 ? given + "/corpus.jsonl"
                                 : given;
    MOTET_RETURN_IF_ERROR(retrieve::ForEachDocument(
        path, [&](retrieve::Document document, const std::string&) {
          if (!retrieve::IsEmpty(document)) {
            texts.push_back(retrieve::TextOf(document));
          }
          return absl::OkStatus();
        }));
  }
  if (texts.empty()) {
    return proto::Invalid("--data", "no document with text",
                          "documents to learn from", "name other files");
  }
  return texts;
}

absl::Status CheckOptions(const Options& o) {
  model::EncoderConfig config = o.config;
  config.vocabulary = o.vocabulary;
  config.max_positions = o.max_tokens;
  MOTET_RETURN_IF_ERROR(model::CheckEncoderConfig(config));
  MOTET_RETURN_IF_ERROR(
      learn::CheckCropOptions(o.train, config.max_positions));
  if (proto::Exists(o.out + "/config.json")) {
    return proto::Error(absl::StatusCode::kAlreadyExists, o.out, "an encoder",
                        "a new folder", "remove it, or choose another --out");
  }
  return absl::OkStatus();
}

// What stock transformers needs beside tokenizer.json.
std::string TokenizerConfig(int64_t max_tokens) {
  return nlohmann::ordered_json{{"tokenizer_class", "PreTrainedTokenizerFast"},
                                {"model_max_length", max_tokens},
                                {"pad_token", "[PAD]"},
                                {"unk_token", "[UNK]"},
                                {"cls_token", "[CLS]"},
                                {"sep_token", "[SEP]"},
                                {"mask_token", "[MASK]"}}
             .dump(1) +
         "\n";
}

absl::Status Train(Options options, const Context& context) {
  while (absl::EndsWith(options.out, "/")) options.out.pop_back();
  // What an interrupted run goes on from.
  const std::string work = options.out + ".work";
  options.train.checkpoint_path = work + "/checkpoint.safetensors";
  MOTET_RETURN_IF_ERROR(CheckOptions(options));
  MOTET_ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                         ReadTexts(options));
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(work));
  MOTET_ASSIGN_OR_RETURN(const auto lock,
                         proto::FileLock::Take(work + "/lock", "training"));
  WatchInterrupts();

  ProgressLine reading("tokenizer");
  model::TokenizerTrainOptions words;
  words.wordpiece = true;
  words.vocabulary = options.vocabulary;
  words.progress = [&](double fraction) {
    reading.Update(fraction, "");
    return !Interrupted();
  };
  MOTET_ASSIGN_OR_RETURN(const std::string tokenizer_json,
                         model::TrainTokenizer(texts, words));
  MOTET_ASSIGN_OR_RETURN(const auto tokenizer,
                         model::Tokenizer::Parse(tokenizer_json));
  std::vector<std::vector<int32_t>> documents;
  int64_t tokens = 0, too_short = 0;
  model::EncodeOptions plain;
  plain.add_special_tokens = false;
  for (const std::string& text : texts) {
    std::vector<int32_t> ids = tokenizer->Encode(text, plain);
    if (std::ssize(ids) < options.train.crop_least) {
      ++too_short;
      continue;
    }
    tokens += std::ssize(ids);
    documents.push_back(std::move(ids));
  }
  reading.Finish(absl::StrFormat(
      "%d tokens of vocabulary; %d documents are %d tokens%s",
      tokenizer->vocabulary(), documents.size(), tokens,
      too_short == 0 ? ""
                     : absl::StrCat("; ", too_short, " shorter than a crop (",
                                    options.train.crop_least,
                                    " tokens) left out")));
  if (documents.size() < 2) {
    return proto::Invalid(
        "--data",
        absl::StrCat(documents.size(), " documents of ",
                     options.train.crop_least, " tokens or more"),
        "at least 2", "name other files, or lower --crop-least");
  }

  model::EncoderConfig config = options.config;
  config.vocabulary = tokenizer->vocabulary();
  config.max_positions = options.max_tokens;
  options.train.begin = tokenizer->IdOf("[CLS]");
  options.train.end = tokenizer->IdOf("[SEP]");
  learn::OwnedEncoder encoder =
      learn::InitialEncoder(config, options.train.seed);
  ProgressLine progress("encoder");
  auto trained = learn::TrainEncoder(
      encoder, documents, options.train, [&](const learn::TrainProgress& p) {
        progress.Update(
            static_cast<double>(p.step) / static_cast<double>(p.steps),
            absl::StrFormat("step %d of %d, loss %.3f, %.0f tokens/s, %.0f s "
                            "left",
                            p.step, p.steps, p.loss, p.tokens_per_second,
                            p.eta_seconds));
        return !Interrupted();
      });
  if (absl::IsCancelled(trained.status())) {
    return absl::CancelledError(absl::StrCat(
        trained.status().message(), "; the same command goes on from there"));
  }
  MOTET_RETURN_IF_ERROR(trained.status());
  progress.Finish(absl::StrFormat("%d steps in %.0f s", trained->steps,
                                  trained->seconds));
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(options.out));
  MOTET_RETURN_IF_ERROR(proto::WriteFileAtomic(options.out + "/tokenizer.json",
                                               tokenizer_json));
  MOTET_RETURN_IF_ERROR(
      proto::WriteFileAtomic(options.out + "/tokenizer_config.json",
                             TokenizerConfig(options.max_tokens)));
  MOTET_RETURN_IF_ERROR(package::SaveEncoder(options.out, config,
                                             encoder.weights, true,
                                             options.max_tokens));
  // What this run made there, and the folder if nothing else lies in it.
  std::error_code ignored;
  for (const char* name : {"/checkpoint.safetensors", "/lock"}) {
    std::filesystem::remove(work + name, ignored);
  }
  std::filesystem::remove(work, ignored);

  const std::vector<double>& curve = trained->loss_curve;
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::ordered_json{
                             {"encoder", options.out},
                             {"documents", documents.size()},
                             {"too_short", too_short},
                             {"vocabulary", config.vocabulary},
                             {"steps", trained->steps},
                             {"tokens", trained->tokens},
                             {"skipped", trained->skipped},
                             {"seconds", trained->seconds},
                             {"loss_every", trained->loss_every},
                             {"loss_curve", curve}}));
  } else {
    absl::PrintF("%s: %d documents, %d steps, loss %.3f to %.3f\n",
                 options.out, documents.size(), trained->steps,
                 curve.empty() ? 0 : curve.front(),
                 curve.empty() ? 0 : curve.back());
  }
  return absl::OkStatus();
}

}  // namespace

void AddEncoder(CLI::App& app, Context& context) {
  CLI::App* noun = Noun(app, "encoder", "Encoders of documents and queries: "
                                        "train");
  auto o = std::make_shared<Options>();
  CLI::App* train = noun->add_subcommand(
      "train",
      "Train a BERT encoder and its tokenizer from documents alone: two "
      "random crops of one belong together");
  train
      ->add_option("--data", o->data,
                   "corpus.jsonl, or a folder with one; once for each")
      ->required()
      ->allow_extra_args(false);
  train->add_option("--out", o->out, "The encoder's folder, a new one")
      ->required();
  const NumberOptions number{*train};
  number("--vocabulary", o->vocabulary, 300, 1e6,
         "Most tokens of the vocabulary");
  number("--width", o->config.width, 8, 65536, "Width of a vector");
  number("--layers", o->config.layers, 1, 1000, "Layers (blocks)");
  number("--heads", o->config.heads, 1, 1024, "Attention heads a layer");
  number("--ffn-width", o->config.ffn_width, 8, 1e6,
         "Inner width of a feed-forward network");
  number("--max-tokens", o->max_tokens, 4, 65536,
         "Positions; texts are cut there");
  number("--steps", o->train.steps, 1, 1e9, "Optimiser steps");
  number("--batch", o->train.batch_documents, 2, 65536, "Documents a step");
  number("--crop-least", o->train.crop_least, 1, 65536,
         "Tokens of a crop, at least");
  number("--crop-most", o->train.crop_most, 1, 65536,
         "Tokens of a crop, at most");
  number("--crop-share", o->train.crop_share, 1e-3, 1,
         "... and at most this share of its document");
  number("--temperature", o->train.temperature, 1e-4, 100,
         "What scores are divided by");
  number("--lr", o->train.learning_rate, 1e-9, 1,
         "Learning rate at the top of the schedule");
  number("--warmup", o->train.warmup_fraction, 0, 1,
         "Share of the steps over which the rate rises; then it falls to 0");
  number("--clip", o->train.clip_norm, 0, 1e6,
         "Longest gradient; 0 for no clipping");
  number("--weight-decay", o->train.weight_decay, 0, 1,
         "Decoupled weight decay of AdamW");
  number("--seed", o->train.seed, 0, 9e15,
         "Seed of the first weights, the batches and the crops");
  number("--checkpoint-every", o->train.checkpoint_every, 1, 1e9,
         "Steps between two checkpoints");
  AddArithmeticOption(*train, o->train.product);
  SetAction(train, context,
            [o, &context] { return Train(*o, context); });
}

}  // namespace motet::coordinator
