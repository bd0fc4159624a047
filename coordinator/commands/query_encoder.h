// SPDX-License-Identifier: Apache-2.0
// Who encodes the queries of a search or an evaluation: an encoder's folder,
// it with one adapter, or a composition's experts, those that the gate lets
// answer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compose/package/peft.h"
#include "coordinator/commands/served_retrieval.h"

namespace motet::coordinator {

struct QueryOptions {
  ServedOptions served;      // model: a folder, or a composition's name
  std::string adapter;       // a folder; of a model that is a folder
  bool composition = false;  // the model is one, whatever else has its name
};
// --include, --exclude, --purpose, --offline.
void AddQueryOptions(CLI::App& command, QueryOptions& options);

struct OpenedQueries {
  ServedRetriever served;
  std::unique_ptr<package::LoadedLora> adapter;
  std::unique_ptr<retrieve::QueryEncoder> encoder;
  std::vector<std::string> experts;  // of a composition: that may answer
  const retrieve::TextEncoder& base() const { return served.retriever->base(); }
  bool composed() const { return !served.retriever->experts.empty(); }
};
// Says on standard error, as `command`, which experts are withheld and why.
absl::StatusOr<OpenedQueries> OpenQueries(const QueryOptions& options,
                                          math::Product product,
                                          const std::string& command,
                                          const Context& context);

// Of an answer's expert, for people: "the base" in place of no name.
std::string ExpertText(const std::string& id);

}  // namespace motet::coordinator
