// SPDX-License-Identifier: Apache-2.0
// MODEL on a command line, where it is for retrieval: the folder of a BERT
// encoder, for which no federation is needed or looked for, or the name of a
// composition of method router_retriever.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "compose/math/operators.h"
#include "compose/retrieve/retriever.h"
#include "coordinator/cli.h"
#include "coordinator/commands/served.h"

namespace motet::coordinator {

// False for everything else, what is not there included: whoever opens it
// says what is wrong.
bool IsForRetrieval(const std::string& model, const Context& context);

struct ServedRetriever {
  std::unique_ptr<retrieve::Retriever> retriever;
  // Manifest SHA-256, for the gate: experts that are revoked, and those whose
  // pilots are.
  std::set<std::string> revoked;
};
// Of the options, model, name and offline count.
absl::StatusOr<ServedRetriever> OpenRetriever(const ServedOptions& options,
                                              math::Product product,
                                              const Context& context);

}  // namespace motet::coordinator
