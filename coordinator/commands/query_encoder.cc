// SPDX-License-Identifier: Apache-2.0
#include "coordinator/commands/query_encoder.h"

#include <CLI/CLI.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/error.h"
#include "proto/files.h"

namespace motet::coordinator {
namespace {

bool IsFolder(const std::string& model, const Context& context) {
  return proto::Exists(model + "/config.json") ||
         model.find('/') != std::string::npos ||
         !proto::Exists(context.federation + "/motet.toml");
}

absl::Status CheckFolderOptions(const QueryOptions& options) {
  const ServedOptions& served = options.served;
  if (served.include.empty() && served.exclude.empty() &&
      served.purpose.empty()) {
    return absl::OkStatus();
  }
  return proto::Invalid(
      "--include, --exclude or --purpose",
      absl::StrCat("the encoder \"", served.model, "\", which has no experts"),
      "a composition's name", "leave them out");
}

}  // namespace

void AddQueryOptions(CLI::App& command, QueryOptions& options) {
  ServedOptions& served = options.served;
  command
      .add_option("--include", served.include,
                  "Of a composition: only this expert (id, owner, domain) "
                  "beside the base; once for each")
      ->allow_extra_args(false);
  command
      .add_option("--exclude", served.exclude,
                  "Of a composition: without this expert; once for each")
      ->allow_extra_args(false);
  command.add_option("--purpose", served.purpose,
                     "What the answer is for; licences may ask");
  command.add_flag("--offline", served.offline,
                   "Do not ask the registry about revocations");
}

absl::StatusOr<OpenedQueries> OpenQueries(const QueryOptions& options,
                                          math::Product product,
                                          const std::string& command,
                                          const Context& context) {
  OpenedQueries opened;
  const std::string& model = options.served.model;
  if (!options.composition && IsFolder(model, context)) {
    MOTET_RETURN_IF_ERROR(CheckFolderOptions(options));
    MOTET_ASSIGN_OR_RETURN(opened.served.retriever,
                           retrieve::Retriever::OfDirectory(model, product));
    if (!options.adapter.empty()) {
      MOTET_ASSIGN_OR_RETURN(
          opened.adapter,
          package::LoadLora(options.adapter, opened.base().config()));
    }
    opened.encoder = std::make_unique<retrieve::FixedQueryEncoder>(
        &opened.base(),
        opened.adapter == nullptr ? nullptr : &opened.adapter->lora,
        options.adapter);
    return opened;
  }
  if (!options.adapter.empty()) {
    return proto::Invalid(
        "--adapter",
        absl::StrCat("an adapter beside the composition \"", model, "\""),
        "one or the other", "leave one out");
  }
  MOTET_ASSIGN_OR_RETURN(opened.served,
                         OpenRetriever(options.served, product, context));
  MOTET_ASSIGN_OR_RETURN(const Admission admission,
                         Admit(*opened.served.retriever, opened.served.revoked,
                               options.served, command));
  opened.experts = admission.experts();
  opened.encoder = opened.served.retriever->QueriesFor(admission.mask());
  return opened;
}

std::string ExpertText(const std::string& id) {
  return id.empty() ? "the base" : id;
}

}  // namespace motet::coordinator
