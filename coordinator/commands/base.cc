// SPDX-License-Identifier: Apache-2.0
// motet base train|publish (import: base_import.cc): the public model that
// every expert is branched from, with its tokenizer, its anchor statistics
// and the public text that owners mix into their batches, as one signed
// package.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/learn/corpus.h"
#include "compose/learn/statistics.h"
#include "compose/learn/trainer.h"
#include "compose/package/package_folder.h"
#include "coordinator/base_package.h"
#include "coordinator/cli.h"
#include "coordinator/commands/base_import.h"
#include "coordinator/commands/number_options.h"
#include "coordinator/federation.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "registry/client.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string data;
  std::string name = "base";
  std::string version = "1.0.0";
  int64_t vocabulary = 2048;
  model::ModelConfig config;
  learn::TrainOptions train;
  int64_t anchor_tokens = 65536;
  int64_t public_bytes = 2 << 20;
};

v1::TrainingRecord Record(const learn::TrainOptions& options,
                          const learn::TrainResult& result) {
  v1::TrainingRecord record;
  record.set_method("dense");
  record.set_steps(result.steps);
  record.set_tokens(result.tokens);
  record.set_seed(options.seed);
  record.set_software("motet " MOTET_VERSION);
  record.set_seconds(result.seconds);
  record.set_loss_every(result.loss_every);
  for (double loss : result.loss_curve) record.add_loss_curve(loss);
  auto& hyper = *record.mutable_hyper_parameters();
  hyper["learning_rate"] = options.learning_rate;
  hyper["weight_decay"] = options.weight_decay;
  hyper["batch_sequences"] = options.batch_sequences;
  hyper["sequence_tokens"] = options.sequence_tokens;
  return record;
}

absl::Status Train(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Federation federation,
                         OpenFederation(context.federation));
  const std::string folder = federation.Path("base");
  MOTET_RETURN_IF_ERROR(CheckNoBase(federation, "base train"));
  MOTET_ASSIGN_OR_RETURN(std::vector<std::string> documents,
                         learn::ReadJsonl(options.data));
  ProgressLine tokenizer_progress("tokenizer");
  model::TokenizerTrainOptions tokenizer_options;
  tokenizer_options.vocabulary = options.vocabulary;
  tokenizer_options.progress = [&](double fraction) {
    tokenizer_progress.Update(fraction, "");
    return !Interrupted();
  };
  MOTET_ASSIGN_OR_RETURN(
      std::string tokenizer_json,
      model::TrainTokenizer(documents, tokenizer_options));
  MOTET_ASSIGN_OR_RETURN(std::unique_ptr<model::Tokenizer> tokenizer,
                         model::Tokenizer::Parse(tokenizer_json));
  model::ModelConfig config = options.config;
  config.vocabulary = tokenizer->vocabulary();
  config.eos_id = tokenizer->IdOf("<|endoftext|>");
  config.pad_id = tokenizer->IdOf("<|padding|>");
  config.head_dim = config.width / config.heads;
  config.kv_heads = config.heads;
  MOTET_RETURN_IF_ERROR(model::CheckConfig(config));
  const learn::TokenWindows windows(*tokenizer, documents, config.eos_id,
                                    options.train.sequence_tokens);
  tokenizer_progress.Finish(absl::StrFormat(
      "%d tokens of vocabulary; %d documents are %d tokens",
      tokenizer->vocabulary(), documents.size(), windows.tokens()));

  learn::OwnedModel model = learn::InitialModel(config, options.train.seed);
  learn::TrainOptions train = options.train;
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(federation.Path("work")));
  train.checkpoint_path = federation.Path("work/base.checkpoint");
  ProgressLine progress("base");
  MOTET_ASSIGN_OR_RETURN(
      learn::TrainResult result,
      learn::TrainDense(model, windows, train,
                        [&](const learn::TrainProgress& p) {
                          progress.Update(
                              double(p.step) / p.steps,
                              absl::StrFormat("step %d of %d, loss %.3f, %.0f "
                                              "tokens/s, %.0f s left",
                                              p.step, p.steps, p.loss,
                                              p.tokens_per_second,
                                              p.eta_seconds));
                          return !Interrupted();
                        }));
  progress.Finish(absl::StrFormat(
      "%.2f M parameters, %d tokens, loss %.3f, %.0f s",
      model::CountParameters(config) / 1e6, result.tokens,
      result.loss_curve.back(), result.seconds));
  MOTET_ASSIGN_OR_RETURN(
      model::Decoder decoder,
      model::Decoder::Create(config, model.weights, model::Router{}));
  MOTET_ASSIGN_OR_RETURN(
      std::vector<learn::AnchorLayer> anchor,
      learn::ComputeAnchor(decoder, windows, options.anchor_tokens));
  BasePackage base;
  base.id = absl::StrCat(federation.name, "/", options.name, "@",
                         options.version);
  base.tokenizer_json = tokenizer_json;
  base.public_documents =
      SampleDocuments(documents, options.public_bytes, options.train.seed);
  base.training = Record(train, result);
  base.anchor_tokens =
      learn::StatisticsTokens(windows, options.anchor_tokens);
  base.origin = absl::StrFormat("trained on %d tokens of public text in %d "
                                "steps", result.tokens, result.steps);
  MOTET_RETURN_IF_ERROR(WriteBasePackage(federation, folder, base, config,
                                         model.weights, anchor));
  MOTET_ASSIGN_OR_RETURN(
      package::OpenedPackage opened,
      package::OpenPackage(folder, federation.authority_pem));
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::json{
                             {"id", base.id},
                             {"manifest_sha256", opened.manifest_sha256},
                             {"parameters", model::CountParameters(config)},
                             {"tokens", result.tokens},
                             {"seconds", result.seconds},
                             {"loss", result.loss_curve.back()}}));
  } else {
    absl::PrintF("%s trained, signed, in %s\n", base.id, folder);
  }
  return absl::OkStatus();
}

absl::Status Publish(const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Federation federation,
                         OpenFederation(context.federation));
  const std::string folder = federation.Path("base");
  MOTET_ASSIGN_OR_RETURN(
      package::OpenedPackage opened,
      package::OpenPackage(folder, federation.authority_pem));
  MOTET_ASSIGN_OR_RETURN(
      auto client,
      registry::Client::Make(federation.registry_address, federation.tls));
  registry::PublishOptions options;
  MOTET_ASSIGN_OR_RETURN(options.cuts, package::ChunkCutsOf(folder));
  ProgressLine progress("publish");
  options.progress = [&](uint64_t done, uint64_t total) {
    progress.Update(total == 0 ? 1 : double(done) / total, "");
    return true;
  };
  MOTET_ASSIGN_OR_RETURN(
      v1::PublishReply reply,
      client->Publish(folder, opened.manifest.id(), options));
  progress.Finish(absl::StrCat(opened.manifest.id(), ", log entry ",
                               reply.record().log_index()));
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::json{
                             {"id", opened.manifest.id()},
                             {"manifest_sha256", opened.manifest_sha256},
                             {"log_index", reply.record().log_index()}}));
  }
  return absl::OkStatus();
}

}  // namespace

void AddBase(CLI::App& app, Context& context) {
  CLI::App* noun = Noun(app, "base", "The public model that every expert is "
                                     "branched from");
  auto o = std::make_shared<Options>();
  o->config.block = model::Block::kPostNorm;
  o->config.width = 160;
  o->config.layers = 4;
  o->config.heads = 5;
  o->config.ffn_width = 448;
  o->config.max_positions = 1024;
  o->train.steps = 400;
  o->train.batch_sequences = 16;
  o->train.sequence_tokens = 128;
  o->train.learning_rate = 3e-3;
  o->train.warmup_steps = 40;
  o->train.weight_decay = 0.1;
  o->train.checkpoint_every = 100;
  CLI::App* train = noun->add_subcommand(
      "train", "Train tokenizer and base from public text, take the anchor "
               "statistics, sign the package");
  train->add_option("--data", o->data, "Public text: train.jsonl of `motet "
                                       "corpus import`")
      ->required();
  const NumberOptions number{*train};
  number("--vocabulary", o->vocabulary, 300, 1e6, "Tokens of the vocabulary");
  number("--width", o->config.width, 8, 65536,
         "Width of the residual stream");
  number("--layers", o->config.layers, 1, 1000, "Layers (blocks)");
  number("--heads", o->config.heads, 1, 1024,
         "Attention heads a layer");
  number("--ffn-width", o->config.ffn_width, 8, 1e6,
         "Inner width of a feed-forward network");
  number("--max-positions", o->config.max_positions, 16, 1e6,
         "Longest context");
  number("--steps", o->train.steps, 1, 1e9, "Optimiser steps");
  number("--batch-sequences", o->train.batch_sequences, 1, 65536,
         "Sequences a step");
  number("--sequence-tokens", o->train.sequence_tokens, 8, 65536,
         "Tokens a sequence");
  number("--learning-rate", o->train.learning_rate, 1e-9, 1,
         "Learning rate at the top of the schedule");
  number("--warmup-steps", o->train.warmup_steps, 0, 1e9,
         "Steps over which the learning rate rises to its top");
  number("--weight-decay", o->train.weight_decay, 0, 1,
         "Decoupled weight decay of AdamW");
  number("--seed", o->train.seed, 0, 9e15,
         "Seed of the first weights and of the batches");
  number("--anchor-tokens", o->anchor_tokens, 256, 1e10,
         "Tokens that the anchor statistics are taken over");
  number("--public-bytes", o->public_bytes, 1 << 10, 1e12,
         "Public text that travels in the package for owners' batches");
  SetAction(train, context, [o, train, &context] {
    if (train->count("--warmup-steps") == 0) {  // the default fits 400 steps
      o->train.warmup_steps =
          std::min(o->train.warmup_steps, o->train.steps / 10);
    }
    WatchInterrupts();
    return Train(*o, context);
  });
  AddBaseImport(*noun, context);
  CLI::App* publish =
      noun->add_subcommand("publish", "Put the base into the registry");
  SetAction(publish, context, [&context] { return Publish(context); });
}

}  // namespace motet::coordinator
