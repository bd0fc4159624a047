// SPDX-License-Identifier: Apache-2.0
// motet eval choice MODEL --data FILE.jsonl: multiple choice by
// log-likelihood, counted as lm-eval counts it (docs/evaluation.md).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/measure/choice.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/compose_parts.h"
#include "coordinator/commands/served.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

struct Options {
  ServedOptions served;
  std::string data, samples;
  measure::ChoiceOptions choice;
};

// A line for each question: what each of its choices got.
std::string Samples(const measure::ChoiceScore& score,
                    const std::vector<measure::Question>& questions) {
  std::string out;
  for (size_t q = 0; q < questions.size(); ++q) {
    nlohmann::ordered_json line;
    line["question"] = q;
    line["gold"] = questions[q].gold;
    line["log_likelihoods"] = score.log_likelihoods[q];
    absl::StrAppend(&out, JsonText(line), "\n");
  }
  return out;
}

absl::Status Run(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const auto questions,
                         measure::ReadQuestions(options.data));
  MOTET_ASSIGN_OR_RETURN(const Served served,
                         OpenServed(options.served, context));
  MOTET_ASSIGN_OR_RETURN(
      const Admission admission,
      AdmitServed(served, options.served, "eval choice"));
  ProgressLine progress("choice", ProgressLine::kTerminal);
  measure::ChoiceOptions choice = options.choice;
  choice.allowed = admission.mask();
  choice.progress = [&](double fraction) {
    progress.Update(fraction, absl::StrCat(questions.size(), " questions"));
  };
  MOTET_ASSIGN_OR_RETURN(
      const measure::ChoiceScore score,
      measure::ScoreChoices(*served.model, questions, choice));
  progress.Finish(absl::StrCat(questions.size(), " questions"));
  if (!options.samples.empty()) {
    MOTET_RETURN_IF_ERROR(
        proto::WriteFileAtomic(options.samples, Samples(score, questions)));
  }
  const std::pair<const char*, const measure::Accuracy*> metrics[] = {
      {"acc", &score.acc},
      {"acc_norm", &score.acc_norm},
      {"acc_bytes", &score.acc_bytes}};
  if (context.json) {
    nlohmann::ordered_json json;
    for (const auto& [name, accuracy] : metrics) {
      json[name] = accuracy->value;
      json[absl::StrCat(name, "_stderr")] = accuracy->stderror;
    }
    json["questions"] = questions.size();
    absl::PrintF("%s\n", JsonText(json));
    return absl::OkStatus();
  }
  for (const auto& [name, accuracy] : metrics) {
    absl::PrintF("%-9s  %.4f +- %.4f\n", name, accuracy->value,
                 accuracy->stderror);
  }
  absl::PrintF("of %d questions\n", questions.size());
  return absl::OkStatus();
}

}  // namespace

void AddEvalChoice(CLI::App& noun, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = noun.add_subcommand(
      "choice", "Multiple choice by log-likelihood: accuracy as lm-eval "
                "counts it");
  AddServedOptions(*command, options->served);
  command
      ->add_option("--data", options->data,
                   "JSONL file of {\"query\": …, \"choices\": […], \"gold\": "
                   "index}")
      ->required();
  command
      ->add_option("--delimiter", options->choice.delimiter,
                   "Between query and choice")
      ->capture_default_str();
  command->add_option("--samples", options->samples,
                      "Also the log-likelihoods of each question, as JSONL, "
                      "to this file");
  AddExpertOptions(*command, options->served);
  AddArithmeticOption(*command, options->choice.product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
