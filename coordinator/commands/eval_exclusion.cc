// SPDX-License-Identifier: Apache-2.0
// motet eval exclusion NAME: for every expert, the logits of a query that
// excludes it and those of a composition built without it. Both digests are
// printed; any difference fails the command.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compose/learn/corpus.h"
#include "compose/measure/exclusion.h"
#include "coordinator/commands/compose_parts.h"
#include "nlohmann/json.hpp"
#include "proto/error.h"

namespace motet::coordinator {
namespace {

struct Options {
  std::string name;
  std::vector<std::string> experts;
  std::string prompt;
  std::vector<std::string> data;
  int64_t tokens = 384;
  std::string router;
};

// The prompt's ids: given text, or the beginnings of the given files in equal
// parts, or the base's public text.
absl::StatusOr<std::vector<int32_t>> PromptIds(
    const Options& options, const std::string& base_folder,
    const assemble::Composition& composition) {
  const model::Tokenizer& tokenizer = composition.tokenizer();
  const size_t most = static_cast<size_t>(
      std::min(options.tokens, composition.config.max_positions));
  std::vector<int32_t> ids;
  if (!options.prompt.empty()) {
    ids = tokenizer.Encode(options.prompt);
    if (ids.size() > most) ids.resize(most);
    return ids;
  }
  std::vector<std::string> files = options.data;
  if (files.empty()) files = {base_folder + "/public.jsonl"};
  for (size_t f = 0; f < files.size(); ++f) {
    const size_t share = most * (f + 1) / files.size();
    MOTET_ASSIGN_OR_RETURN(const auto documents, learn::ReadJsonl(files[f]));
    for (const std::string& document : documents) {
      if (ids.size() >= share) break;
      const std::vector<int32_t> more = tokenizer.Encode(document);
      ids.insert(ids.end(), more.begin(), more.end());
    }
    if (ids.size() > share) ids.resize(share);
  }
  if (ids.empty()) {
    return proto::Invalid("exclusion", "no text", "a prompt",
                          "give --prompt or --data");
  }
  return ids;
}

absl::Status Run(const Options& options, const Context& context) {
  MOTET_ASSIGN_OR_RETURN(const ComposeSession session,
                         OpenComposeSession(context));
  MOTET_ASSIGN_OR_RETURN(v1::CompositionLock lock,
                         ReadLock(session.federation, options.name));
  if (!options.router.empty()) {
    lock.mutable_router()->set_kind(options.router);
  }
  const assemble::PackageFolder folder_of = FolderOf(session);
  MOTET_ASSIGN_OR_RETURN(const auto composition,
                         assemble::LoadComposition(lock, folder_of));
  MOTET_ASSIGN_OR_RETURN(const std::string base,
                         folder_of(lock.base().manifest_sha256()));
  MOTET_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                         PromptIds(options, base, *composition));
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
                              }));
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
    absl::PrintF("%s\n", list.dump(2));
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
  command->add_option("--expert", options->experts,
                      "Only this one (id, owner or domain); default: each");
  auto* prompt = command->add_option("--prompt", options->prompt,
                                     "Text to run; default: public text");
  command
      ->add_option("--data", options->data,
                   "Or the beginnings of these JSONL files")
      ->excludes(prompt);
  command->add_option("--tokens", options->tokens, "At most this many tokens")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command
      ->add_option("--router", options->router,
                   "Another router than the lock's")
      ->check(CLI::IsMember({"anchored", "topk"}));
  SetAction(command, context,
            [options, &context] { return Run(*options, context); });
}

}  // namespace motet::coordinator
