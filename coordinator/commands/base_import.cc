// SPDX-License-Identifier: Apache-2.0
// motet base import FOLDER: a dense model that somebody else trained, in
// Hugging Face layout, becomes the federation's public base. Its weights keep
// their dtype; the anchor statistics come from public text run through it. A
// BERT encoder becomes the base of retrieval experts, and needs no text.
#include "coordinator/commands/base_import.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/learn/corpus.h"
#include "compose/learn/statistics.h"
#include "compose/learn/trainer.h"
#include "compose/package/package_folder.h"
#include "coordinator/base_package.h"
#include "coordinator/commands/number_options.h"
#include "coordinator/encoder_package.h"
#include "coordinator/federation.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"
#include "proto/limits.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string folder;
  std::string data;
  std::string name = "base";
  std::string version = "1.0.0";
  std::string spdx = "LicenseRef-federation-public";
  int64_t sequence_tokens = 512;
  int64_t anchor_tokens = 65536;
  int64_t public_bytes = 2 << 20;
};

// What an expert can be branched from; more is refused, not guessed.
absl::Status CheckFits(const package::LoadedModel& model,
                       const std::string& folder) {
  if (model.config.experts != 0) {
    return proto::Invalid(folder,
                          absl::StrCat("a mixture of ", model.config.experts,
                                       " experts"),
                          "a dense model", "");
  }
  if (model.tokenizer == nullptr) {
    return proto::Invalid(folder, "no tokenizer.json", "one beside the model");
  }
  if (model.tokenizer->vocabulary() > model.config.vocabulary) {
    return proto::Invalid(
        folder, absl::StrCat(model.tokenizer->vocabulary(), " tokens in "
                             "tokenizer.json"),
        absl::StrCat("at most the model's ", model.config.vocabulary));
  }
  return absl::OkStatus();
}

void Report(const Context& context, const std::string& id,
            const std::string& folder, const std::string& manifest_sha256,
            int64_t parameters) {
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::json{{"id", id},
                                        {"manifest_sha256", manifest_sha256},
                                        {"parameters", parameters}}));
  } else {
    absl::PrintF("%s imported, signed, in %s\n", id, folder);
  }
}

absl::Status ImportEncoder(const Options& options, const Context& context,
                           const Federation& federation) {
  if (!options.data.empty()) {
    return proto::Invalid("--data", "public text for an encoder", "none",
                          "an encoder has no anchor statistics");
  }
  const std::string id =
      absl::StrCat(federation.name, "/", options.name, "@", options.version);
  const std::string folder = federation.Path("base");
  MOTET_RETURN_IF_ERROR(WriteEncoderPackage(federation, options.folder, folder,
                                            id, options.spdx));
  MOTET_ASSIGN_OR_RETURN(
      const package::OpenedPackage opened,
      package::OpenPackage(folder, federation.authority_pem));
  int64_t parameters = 0;
  for (const auto& e : opened.weights->entries()) parameters += e.tensor.size();
  Report(context, id, folder, opened.manifest_sha256, parameters);
  return absl::OkStatus();
}

absl::Status Import(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(Federation federation,
                         OpenFederation(context.federation));
  MOTET_RETURN_IF_ERROR(CheckNoBase(federation, "base import"));
  MOTET_ASSIGN_OR_RETURN(const bool encoder, IsEncoderFolder(options.folder));
  if (encoder) return ImportEncoder(options, context, federation);
  if (options.data.empty()) {
    return proto::Invalid("--data", "nothing", "public text for a decoder",
                          "give train.jsonl of `motet corpus import`");
  }
  MOTET_ASSIGN_OR_RETURN(
      const auto model,
      package::LoadModel(options.folder, package::Numbers::kFinite));
  MOTET_RETURN_IF_ERROR(CheckFits(*model, options.folder));
  MOTET_ASSIGN_OR_RETURN(std::vector<std::string> documents,
                         learn::ReadJsonl(options.data));
  BasePackage base;
  base.id = absl::StrCat(federation.name, "/", options.name, "@",
                         options.version);
  base.spdx = options.spdx;
  MOTET_ASSIGN_OR_RETURN(base.tokenizer_json,
                         proto::ReadFile(options.folder + "/tokenizer.json",
                                         proto::kMaxTokenizerBytes));
  // A seeded shuffle first: the anchor must not be the first file's alone.
  base.public_documents =
      SampleDocuments(documents, options.public_bytes, /*seed=*/1);
  base.training.set_method("imported");
  base.training.set_software("motet " MOTET_VERSION);
  base.origin = "trained elsewhere; imported as it was";
  const learn::TokenWindows windows(
      *model->tokenizer, base.public_documents,
      learn::SeparatorOf(*model->tokenizer, model->config.eos_id),
      options.sequence_tokens);
  MOTET_ASSIGN_OR_RETURN(const model::Decoder decoder,
                         learn::BaseDecoder(*model));
  absl::FPrintF(stderr, "base import: anchor statistics over %d tokens of "
                        "public text\n",
                std::min(options.anchor_tokens, windows.tokens()));
  MOTET_ASSIGN_OR_RETURN(
      const std::vector<learn::AnchorLayer> anchor,
      learn::ComputeAnchor(decoder, windows, options.anchor_tokens));
  base.anchor_tokens =
      learn::StatisticsTokens(windows, options.anchor_tokens);
  MOTET_RETURN_IF_ERROR(proto::MakeDirectories(federation.Path("work")));
  const std::string folder = federation.Path("base");
  MOTET_RETURN_IF_ERROR(WriteBasePackage(federation, folder, base,
                                         model->config, model->weights,
                                         anchor));
  MOTET_ASSIGN_OR_RETURN(
      const package::OpenedPackage opened,
      package::OpenPackage(folder, federation.authority_pem));
  Report(context, base.id, folder, opened.manifest_sha256,
         model::CountParameters(model->config));
  return absl::OkStatus();
}

}  // namespace

void AddBaseImport(CLI::App& noun, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* command = noun.add_subcommand(
      "import", "Take a dense model in Hugging Face layout as the base, take "
                "the anchor statistics, sign the package; or a BERT encoder, "
                "for a federation of retrieval experts");
  command->add_option("folder", o->folder,
                      "config.json, safetensors and tokenizer.json")
      ->required();
  command
      ->add_option("--data", o->data,
                   "Public text: train.jsonl of `motet corpus import`; none "
                   "for an encoder");
  command->add_option("--licence", o->spdx, "The model's, an SPDX expression")
      ->capture_default_str();
  const NumberOptions number{*command};
  number("--sequence-tokens", o->sequence_tokens, 16, 65536,
         "Window that the statistics are taken over");
  number("--anchor-tokens", o->anchor_tokens, 256, 1e10,
         "Tokens that the anchor statistics are taken over");
  number("--public-bytes", o->public_bytes, 1 << 10, 1e12,
         "Public text that travels in the package for owners' batches");
  SetAction(command, context, [o, &context] { return Import(*o, context); });
}

}  // namespace motet::coordinator
