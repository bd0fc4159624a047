// SPDX-License-Identifier: Apache-2.0
// motet eval matrix|exclusion|logits: what a composition is worth, the proof
// that an excluded expert is silent, and raw numbers for other programs.
#include <CLI/CLI.hpp>

#include "coordinator/cli.h"
#include "coordinator/commands/compose_parts.h"

namespace motet::coordinator {

void AddEval(CLI::App& app, Context& context) {
  CLI::App* noun = Noun(app, "eval",
                        "Measure a composition: perplexity by domain, the "
                        "exclusion guarantee");
  AddEvalMatrix(*noun, context);
  AddEvalExclusion(*noun, context);
  AddEvalLogits(*noun, context);
}

}  // namespace motet::coordinator
