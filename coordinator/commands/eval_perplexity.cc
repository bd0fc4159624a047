// SPDX-License-Identifier: Apache-2.0
// motet eval perplexity MODEL --data FILE.jsonl: how well a model directory
// or a composition predicts text, each document by itself or all joined.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/learn/corpus.h"
#include "compose/measure/perplexity.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/compose_parts.h"
#include "coordinator/commands/served.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

struct Options {
  ServedOptions served;
  std::vector<std::string> data;
  int64_t window = 512;
  bool join = false;
  measure::ScoreOptions score;
};

std::function<void(int64_t)> Report(ProgressLine& progress, int64_t total) {
  auto done = std::make_shared<int64_t>(0);
  return [&progress, total, done](int64_t tokens) {
    *done += tokens;
    progress.Update(static_cast<double>(*done) / static_cast<double>(total),
                    absl::StrCat(*done, " of ", total, " tokens"));
  };
}

// Each document by itself.
absl::StatusOr<measure::Score> ScoreEach(
    const Served& served, const model::Scorer& scorer,
    const std::vector<std::string>& documents, const Options& options,
    measure::ScoreOptions score, ProgressLine& progress) {
  const measure::DocumentWindows windows(served.model->tokenizer(), documents,
                                         options.window);
  score.progress = Report(progress, windows.tokens());
  return measure::ScoreDocuments(scorer, windows, score);
}

// All documents as one text, cut in whole windows.
absl::StatusOr<measure::Score> ScoreJoined(
    const Served& served, const model::Scorer& scorer,
    const std::vector<std::string>& documents, const Options& options,
    measure::ScoreOptions score, ProgressLine& progress) {
  const model::Tokenizer& tokenizer = served.model->tokenizer();
  const learn::TokenWindows windows(
      tokenizer, documents,
      learn::SeparatorOf(tokenizer, served.model->config.eos_id),
      options.window);
  score.progress = Report(
      progress,
      measure::CappedWindows(windows, score.max_tokens) * options.window);
  return measure::ScoreWindows(scorer, windows, score);
}

absl::Status Run(const Options& options, const Context& context) {
  std::vector<std::string> documents;
  for (const std::string& file : options.data) {
    MOTET_ASSIGN_OR_RETURN(std::vector<std::string> more,
                           learn::ReadJsonl(file));
    for (std::string& text : more) documents.push_back(std::move(text));
  }
  MOTET_ASSIGN_OR_RETURN(const Served served,
                         OpenServed(options.served, context));
  MOTET_ASSIGN_OR_RETURN(
      const Admission admission,
      AdmitServed(served, options.served, "eval perplexity"));
  ProgressLine progress("perplexity", ProgressLine::kTerminal);
  measure::ScoreOptions score = options.score;
  MOTET_ASSIGN_OR_RETURN(
      const auto scorer,
      served.model->ScorerFor(admission.mask(), admission.active()));
  MOTET_ASSIGN_OR_RETURN(
      const measure::Score result,
      options.join
          ? ScoreJoined(served, *scorer, documents, options, score, progress)
          : ScoreEach(served, *scorer, documents, options, score, progress));
  progress.Finish(absl::StrCat(result.tokens, " tokens scored"));
  const double mean = result.nll / static_cast<double>(result.tokens);
  if (context.json) {
    nlohmann::ordered_json json;
    json["perplexity"] = std::exp(mean);
    json["mean_nll"] = mean;
    json["tokens"] = result.tokens;
    absl::PrintF("%s\n", JsonText(json));
  } else {
    absl::PrintF("perplexity %.4f, %.6f nats a token, %d tokens of %d "
                 "documents in windows of %d\n",
                 std::exp(mean), mean, result.tokens, documents.size(),
                 options.window);
  }
  return absl::OkStatus();
}

}  // namespace

void AddEvalPerplexity(CLI::App& noun, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = noun.add_subcommand(
      "perplexity", "Perplexity of a model directory or a composition on text, "
                    "each document by itself");
  AddServedOptions(*command, options->served);
  command
      ->add_option("--data", options->data,
                   "JSONL file of {\"text\": …}; once for each")
      ->allow_extra_args(false)
      ->required();
  command
      ->add_option("--window", options->window,
                   "Tokens that the model sees; each window is scored from "
                   "its second token")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20))
      ->capture_default_str();
  CLI::Option* join = command->add_flag(
      "--join", options->join,
      "Join the documents by <|endoftext|> and cut the whole in windows, as "
      "`motet eval matrix` does");
  command
      ->add_option("--max-tokens", options->score.max_tokens,
                   "With --join: at most this many tokens; 0 = all")
      ->check(CLI::NonNegativeNumber)
      ->needs(join)
      ->capture_default_str();
  AddExpertOptions(*command, options->served);
  AddArithmeticOption(*command, options->score.product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
