// SPDX-License-Identifier: Apache-2.0
// motet eval logits NAME --out FILE: a prompt's ids and raw logits, so that
// other programs can be held against this one (tests/peers).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "absl/strings/str_format.h"
#include "compose/package/safetensors.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/compose_parts.h"
#include "coordinator/commands/eval_prompt.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string name;
  std::string out;
  std::string router;
  std::vector<std::string> exclude;
  PromptOptions prompt;
  math::Product product = math::Product::kExact;
};

absl::Status Run(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(const v1::CompositionLock lock,
                         ReadLock(session.federation, options.name));
  const assemble::PackageFolder folder_of = FolderOf(session);
  assemble::LoadOptions load;
  load.router = options.router;
  MOTET_ASSIGN_OR_RETURN(const auto composition,
                         LoadNamed(session, lock, load));
  MOTET_ASSIGN_OR_RETURN(const std::string base,
                         folder_of(lock.base().manifest_sha256()));
  MOTET_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                         PromptIds(options.prompt, base, *composition));
  MOTET_ASSIGN_OR_RETURN(const math::ExpertMask excluded,
                         composition->Resolve(options.exclude));

  math::Arena arena;
  math::Exec exec(math::Cpu(), arena, options.product);
  const math::ExpertMask set = composition->All() & ~excluded;
  MOTET_ASSIGN_OR_RETURN(const auto scorer, composition->ScorerFor(set));
  const model::ScorerInput inputs[] = {{ids, nullptr}};
  const model::RowRange rows[] = {{0, static_cast<int64_t>(ids.size())}};
  std::vector<float> numbers;
  scorer->Run(exec, inputs, rows, [&](int64_t, const math::Tensor& some) {
    numbers.insert(numbers.end(), some.f32(), some.f32() + some.size());
    return true;
  });
  math::Tensor logits;
  logits.data = numbers.data();
  logits.shape = {static_cast<int64_t>(ids.size()),
                  composition->config.vocabulary};
  math::Tensor prompt;
  prompt.data = ids.data();
  prompt.dtype = math::DType::kI32;
  prompt.shape = {static_cast<int64_t>(ids.size())};
  MOTET_RETURN_IF_ERROR(package::WriteSafetensors(
      options.out, {{"ids", prompt}, {"logits", logits}}));
  if (context.json) {
    absl::PrintF("%s\n", JsonText(nlohmann::json{{"file", options.out},
                                                 {"tokens", ids.size()}}));
  } else {
    absl::PrintF("%s: ids and logits of %d tokens\n", options.out,
                 ids.size());
  }
  return absl::OkStatus();
}

}  // namespace

void AddEvalLogits(CLI::App& noun, Context& context) {
  CLI::App* command = noun.add_subcommand(
      "logits", "Write a prompt's ids and raw logits to a safetensors file, "
                "to compare with other programs");
  auto options = std::make_shared<Options>();
  command->add_option("name", options->name, "The composition's name")
      ->required();
  command->add_option("--out", options->out, "The file to write")->required();
  command
      ->add_option("--exclude", options->exclude,
                   "Without this expert (id, owner or domain)")
      ->allow_extra_args(false);
  command
      ->add_option("--router", options->router,
                   "Another router than the lock's")
      ->check(CLI::IsMember({"anchored", "topk"}));
  AddPromptOptions(*command, options->prompt);
  AddArithmeticOption(*command, options->product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
