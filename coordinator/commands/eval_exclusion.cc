// SPDX-License-Identifier: Apache-2.0
// motet eval exclusion NAME: for every expert, the logits of a query that
// excludes it and those of a composition built without it. Both digests are
// printed; any difference fails the command. Vectors and results where the
// composition is for retrieval.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/measure/exclusion.h"
#include "coordinator/arithmetic.h"
#include "coordinator/commands/compose_parts.h"
#include "coordinator/commands/eval_exclusion_retrieval.h"
#include "coordinator/commands/eval_prompt.h"
#include "coordinator/commands/served_retrieval.h"
#include "coordinator/json_text.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string name;
  std::vector<std::string> experts;
  std::string router;
  PromptOptions prompt;
  std::string index, split = "test";  // of a retrieval composition
  math::Product product = math::Product::kExact;
};

absl::Status RunRetrieval(const Options& options, const Context& context) {
  if (!options.router.empty()) {
    return proto::Invalid("--router", options.router,
                          "none: pilots route queries", "leave it out");
  }
  RetrievalExclusionOptions retrieval;
  retrieval.name = options.name;
  retrieval.index = options.index;
  retrieval.prompt = options.prompt.prompt;
  retrieval.data = options.prompt.data;
  retrieval.split = options.split;
  retrieval.experts = options.experts;
  retrieval.product = options.product;
  return ProveRetrieval(retrieval, context);
}

absl::Status Run(const Options& options, const Context& context) {
  if (IsForRetrieval(options.name, context)) {
    return RunRetrieval(options, context);
  }
  if (!options.index.empty()) {
    return proto::Invalid("--index",
                          absl::StrCat("one, and the composition ",
                                       options.name, ", which writes text"),
                          "a composition that searches", "leave it out");
  }
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(v1::CompositionLock lock,
                         ReadLock(session.federation, options.name));
  if (!options.router.empty()) {
    lock.mutable_router()->set_kind(options.router);
  }
  const assemble::PackageFolder folder_of = FolderOf(session);
  const std::string folder =
      lock.has_tuning() ? session.federation.Path(
                              absl::StrCat("compositions/", lock.name()))
                        : "";
  MOTET_ASSIGN_OR_RETURN(const auto composition, LoadNamed(session, lock));
  MOTET_ASSIGN_OR_RETURN(const std::string base,
                         folder_of(lock.base().manifest_sha256()));
  MOTET_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                         PromptIds(options.prompt, base, *composition));
  math::ExpertMask wanted = composition->All() & ~math::ExpertMask{1};
  if (!options.experts.empty()) {
    MOTET_ASSIGN_OR_RETURN(wanted, composition->Resolve(options.experts));
  }
  std::vector<int> positions;
  for (int e = 1; e <= lock.experts_size(); ++e) {
    if (wanted >> e & 1) positions.push_back(e);
  }
  ProgressLine progress("exclusion");
  MOTET_ASSIGN_OR_RETURN(
      const auto proofs,
      measure::ProveExclusion(lock, folder_of, positions, ids,
                              [&](double fraction, const std::string& detail) {
                                progress.Update(fraction, detail);
                              },
                              options.product, folder));
  progress.Finish(absl::StrCat(proofs.size(), " experts, a prompt of ",
                               ids.size(), " tokens"));

  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  std::vector<std::string> differ;
  for (const measure::ExclusionProof& proof : proofs) {
    if (!proof.equal()) differ.push_back(proof.expert);
    list.push_back(
        {{"expert", proof.expert},
         {"excluded_sha256", proof.excluded_sha256},
         {"never_composed_sha256", proof.never_composed_sha256},
         {"excluded_chunked_sha256", proof.excluded_chunked_sha256},
         {"never_composed_chunked_sha256",
          proof.never_composed_chunked_sha256},
         {"included_sha256", proof.included_sha256},
         {"prompt_tokens", ids.size()},
         {"equal", proof.equal()}});
    if (context.json) continue;
    absl::PrintF("%s: %s\n", proof.expert,
                 proof.equal() ? "equal, bit for bit" : "DIFFERENT");
    absl::PrintF("  excluded by the query   %s\n", proof.excluded_sha256);
    absl::PrintF("  never composed          %s\n",
                 proof.never_composed_sha256);
    if (!proof.equal()) {
      absl::PrintF("  excluded, in pieces     %s\n"
                   "  never composed, pieces  %s\n",
                   proof.excluded_chunked_sha256,
                   proof.never_composed_chunked_sha256);
    }
    absl::PrintF("  with the expert         %s%s\n", proof.included_sha256,
                 proof.included_sha256 == proof.excluded_sha256
                     ? "  (it had no part in this prompt)"
                     : "");
  }
  if (context.json) {
    absl::PrintF("%s\n", JsonText(list, 2));
  } else {
    absl::PrintF("SHA-256 over the raw f32 logits of %d tokens; each also "
                 "read in pieces through the cache.\n",
                 ids.size());
  }
  if (differ.empty()) return absl::OkStatus();
  return proto::Error(absl::StatusCode::kDataLoss, "exclusion",
                      absl::StrCat("different logits for ", differ.size(),
                                   " of ", proofs.size(), " experts"),
                      "the same bits",
                      "do not serve this composition; report it as a bug");
}

}  // namespace

void AddEvalExclusion(CLI::App& noun, Context& context) {
  CLI::App* command = noun.add_subcommand(
      "exclusion", "Prove that an excluded expert leaves no trace: compare "
                   "with a composition that never had it");
  auto options = std::make_shared<Options>();
  command->add_option("name", options->name, "The composition's name")
      ->required();
  command
      ->add_option("--expert", options->experts,
                   "Only this one (id, owner or domain); default: each")
      ->allow_extra_args(false);
  command
      ->add_option("--router", options->router,
                   "Another router than the lock's")
      ->check(CLI::IsMember({"anchored", "topk"}));
  AddPromptOptions(*command, options->prompt);
  command->add_option("--index", options->index,
                      "Of a retrieval composition: the index to search; "
                      "--prompt is then the query, or --data a folder in BEIR "
                      "layout");
  command
      ->add_option("--split", options->split,
                   "Of that folder: queries of qrels/SPLIT.tsv")
      ->capture_default_str();
  AddArithmeticOption(*command, options->product);
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
