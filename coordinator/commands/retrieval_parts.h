// SPDX-License-Identifier: Apache-2.0
// The commands of retrieval: they need no federation and no composition.
#pragma once

#include "coordinator/cli.h"

namespace motet::coordinator {

void AddAdapter(CLI::App& app, Context& context);  // train
void AddEncoder(CLI::App& app, Context& context);  // train
void AddEvalRetrieval(CLI::App& noun, Context& context);  // of the noun "eval"
void AddEvalRouters(CLI::App& noun, Context& context);    // of the noun "eval"
void AddIndex(CLI::App& app, Context& context);  // build, add, rm, info
void AddSearch(CLI::App& app, Context& context);

}  // namespace motet::coordinator
