// SPDX-License-Identifier: Apache-2.0
// motet eval matrix|exclusion|logits|perplexity|choice|routing|retrieval: what
// a composition is worth, the proof that an excluded expert is silent, raw
// numbers for other programs, any model on any text or multiple choice, which
// experts answer, and how well an encoder finds documents.
#include <CLI/CLI.hpp>

#include "coordinator/cli.h"
#include "coordinator/commands/compose_parts.h"
#include "coordinator/commands/retrieval_parts.h"

namespace motet::coordinator {

void AddEval(CLI::App& app, Context& context) {
  CLI::App* noun = Noun(app, "eval",
                        "Measure a model or a composition: perplexity of any "
                        "text or by domain, multiple choice, routing, "
                        "retrieval, the exclusion guarantee");
  AddEvalMatrix(*noun, context);
  AddEvalExclusion(*noun, context);
  AddEvalLogits(*noun, context);
  AddEvalPerplexity(*noun, context);
  AddEvalChoice(*noun, context);
  AddEvalRouting(*noun, context);
  AddEvalRetrieval(*noun, context);
  AddEvalRouters(*noun, context);
}

}  // namespace motet::coordinator
