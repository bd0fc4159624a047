// SPDX-License-Identifier: Apache-2.0
// motet generate MODEL --prompt TEXT: one answer on the terminal, written as
// it is made, through the same gate and engine as `motet serve`.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/served.h"
#include "coordinator/engine.h"
#include "coordinator/http/openai.h"
#include "coordinator/json_text.h"
#include "coordinator/policy.h"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

struct Options {
  ServedOptions served;
  std::string prompt;
  uint32_t max_tokens = 128;
  double temperature = 0, top_p = 1;
  uint32_t top_k = 0;
  uint64_t seed = 0;
  std::vector<std::string> stop;
  EngineOptions engine;
};

v1::GenerationRequest RequestOf(const Options& options) {
  v1::GenerationRequest request;
  request.set_prompt(options.prompt);
  request.set_max_tokens(options.max_tokens);
  request.set_temperature(options.temperature);
  request.set_top_p(options.top_p);
  request.set_top_k(options.top_k);
  request.set_seed(options.seed);
  request.set_logprobs(-1);
  for (const std::string& stop : options.stop) request.add_stop(stop);
  *request.mutable_experts() = SelectionOf(options.served);
  request.set_purpose(options.served.purpose);
  return request;
}

absl::Status Run(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const Served served,
                         OpenServed(options.served, context));
  const PolicyGate gate(*served.model, served.revoked);
  Engine engine(*served.model, options.engine);
  const v1::GenerationRequest request = RequestOf(options);
  MOTET_ASSIGN_OR_RETURN(const Admission admission,
                         gate.Admit(request.experts(), request.purpose(),
                                    request.tenant(), absl::Now()));
  for (const Withheld& w : admission.withheld()) {
    absl::FPrintF(stderr, "motet generate: without %s: %s\n", w.id, w.reason);
  }
  Choice choice;
  MOTET_RETURN_IF_ERROR(engine.Generate(
      request, admission, [&](const v1::GenerationEvent& event) {
        if (event.has_end()) choice.end = event.end();
        if (!event.has_token()) return true;
        choice.Add(event.token(), false);
        if (context.json) return true;
        const std::string& text = event.token().text();
        fwrite(text.data(), 1, text.size(), stdout);
        return fflush(stdout) == 0;
      }));
  if (!context.json) {
    absl::PrintF("\n");
    return absl::OkStatus();
  }
  const uint64_t prompt = choice.end.prompt_tokens(),
                 completion = choice.end.completion_tokens();
  nlohmann::ordered_json json;
  json["text"] = choice.text;
  json["finish_reason"] = choice.end.finish_reason();
  json["usage"] = {{"prompt_tokens", prompt},
                   {"completion_tokens", completion},
                   {"total_tokens", prompt + completion}};
  json["motet"] = MotetJson(admission, served.model->lock_sha256);
  absl::PrintF("%s\n", JsonText(json));
  return absl::OkStatus();
}

}  // namespace

void AddGenerate(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "generate", "Continue a text, with a model directory or a composition");
  AddServedOptions(*command, options->served);
  command->add_option("--prompt", options->prompt, "The text to continue")
      ->required();
  command->add_option("--max-tokens", options->max_tokens,
                      "At most this many new tokens")
      ->check(CLI::Range(uint32_t{1}, uint32_t{1} << 20))
      ->capture_default_str();
  command->add_option("--temperature", options->temperature,
                      "0 = always the likeliest token")
      ->check(CLI::Range(0.0, 2.0))
      ->capture_default_str();
  command->add_option("--top-p", options->top_p,
                      "From the likeliest tokens that have this share")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--top-k", options->top_k,
                      "From this many likeliest tokens; 0 = all")
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Of the draw")
      ->capture_default_str();
  command->add_option("--stop", options->stop,
                      "End before this text; once for each")
      ->allow_extra_args(false);
  AddExpertOptions(*command, options->served);
  AddStateMemoryOption(*command, options->engine);
  AddArithmeticOption(*command, options->engine.product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
